//! The real executor from outside: logits against an independent implementation, batches against single sequences, and
//! speculation against plain decoding.

mod families;
mod greedy;
mod law;
mod pair;
mod rows;
mod signals;
