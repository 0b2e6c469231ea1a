#![no_main]

dsde_fuzz::target!(model_name);
