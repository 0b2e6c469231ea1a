//! Every kernel on every instruction set of this machine against the reference, and against itself in other company.
//!
//! A program of its own, so that the kernels, whose many variants take minutes to compile, are compiled once for all tests.

mod attention;
mod delta;
mod experts;
mod kernel;
mod kv_layers;
mod linear;
mod math;
mod memory;
mod pool;
mod support;
mod tile;
mod weights;
