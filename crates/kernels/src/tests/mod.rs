//! Every kernel on every instruction set of this machine against the reference, and against itself in other company.

mod attention;
mod experts;
mod kernel;
mod linear;
mod support;
