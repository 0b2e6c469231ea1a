#![no_main]

dsde_fuzz::target!(form);
