#![no_main]

dsde_fuzz::target!(control_tokens);
