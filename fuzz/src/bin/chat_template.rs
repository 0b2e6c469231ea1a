#![no_main]

dsde_fuzz::target!(chat_template);
