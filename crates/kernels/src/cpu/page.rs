//! How the keys and values of one block, layer and head lie in memory.
//!
//! A *page* holds keys `[head_dim / s][16 slots][s]`, then values `[head_dim / 32][16 / s slots][32][s]`, with `head_dim` padded to 16 and
//! to 32, where a step `s` is two elements of bf16 and one of other types. Keys are thus read as steps of dimensions for 16 slots, values as steps
//! of slots for 32 dimensions, without any shuffling. All instruction sets share this layout.
//!
//! Whole numbers are followed by their scales, one of the key and one of the value of every slot: a scale of several slots would change
//! with what is written beside a slot, and so with proposals that are rejected.

use super::super::AttentionShape;
use super::isa::Isa;
use super::tile::COLUMNS;
use super::weights::{BF16_RUN, Format};

/// Slots per block: the columns of one vector.
pub(super) const BLOCK_LEN: usize = 16;

/// Type in which keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 8 bits of precision, the range of `f32`.
    #[default]
    Bf16,
    /// 11 bits of precision, numbers to 65504.
    F16,
    /// Whole numbers of 8 bits, with a scale for the key and one for the value of each slot and head: half of the memory.
    Int8,
}

impl KvType {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::Bf16 => "bf16",
            KvType::F16 => "f16",
            KvType::Int8 => "int8",
        }
    }

    /// The format in which `isa` multiplies with keys and values.
    pub(super) fn format(self, isa: Isa) -> Format {
        match self {
            KvType::Bf16 if isa == Isa::Avx512Bf16 => Format::Bf16Dot,
            KvType::Bf16 => Format::Bf16Wide,
            KvType::F16 => Format::F16,
            KvType::Int8 => Format::Int8,
        }
    }

    /// Elements of a step, as the exponent of 2.
    fn step_log2(self) -> u32 {
        u32::from(self == KvType::Bf16)
    }

    fn element_bytes(self) -> usize {
        if self == KvType::Int8 { 1 } else { 2 }
    }
}

/// Key or value of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Key,
    Value,
}

impl Half {
    pub(super) const BOTH: [Half; 2] = [Half::Key, Half::Value];
}

/// Places in a page: see the module's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) kv_type: KvType,
    head_dim: usize,
}

impl Page {
    pub(super) fn of(kv_type: KvType, shape: AttentionShape) -> Page {
        Page { kv_type, head_dim: shape.head_dim }
    }

    /// Byte at which an element begins.
    pub(super) fn element(self, half: Half, slot: usize, dim: usize) -> usize {
        // Shifts, because this is the innermost part of storing a row.
        let step_log2 = self.kv_type.step_log2();
        let split = |x: usize| (x >> step_log2, x & ((1 << step_log2) - 1));
        let index = match half {
            Half::Key => {
                let (step, rest) = split(dim);
                ((step * BLOCK_LEN + slot) << step_log2) + rest
            }
            Half::Value => {
                let (step, rest) = split(slot);
                let group = dim / COLUMNS * (BLOCK_LEN >> step_log2) + step;
                self.n_keys() + ((group * COLUMNS + dim % COLUMNS) << step_log2) + rest
            }
        };
        index * self.kv_type.element_bytes()
    }

    /// Byte at which the scale of a slot begins, an `f32`; those of all slots follow each other. Whole numbers alone have scales.
    pub(super) fn scale(self, half: Half, slot: usize) -> usize {
        let place = if half == Half::Key { slot } else { BLOCK_LEN + slot };
        self.n_elements() * self.kv_type.element_bytes() + place * size_of::<f32>()
    }

    /// Bytes of a page.
    pub(super) fn n_bytes(self) -> usize {
        match self.kv_type {
            KvType::Bf16 | KvType::F16 => self.n_elements() * self.kv_type.element_bytes(),
            KvType::Int8 => self.scale(Half::Value, BLOCK_LEN),
        }
    }

    fn n_keys(self) -> usize {
        self.head_dim.next_multiple_of(2 * BF16_RUN) * BLOCK_LEN
    }

    fn n_elements(self) -> usize {
        self.n_keys() + self.head_dim.next_multiple_of(COLUMNS) * BLOCK_LEN
    }

    /// Where in two slots the bytes of the same elements begin, and how many there are.
    pub(super) fn bytes_of_slots(self, slots: [usize; 2]) -> impl Iterator<Item = ([usize; 2], usize)> {
        let element_bytes = self.kv_type.element_bytes();
        let elements = Half::BOTH.into_iter().flat_map(move |half| {
            (0..self.head_dim)
                .map(move |dim| (slots.map(|slot| self.element(half, slot, dim)), element_bytes))
        });
        let halves = if self.kv_type == KvType::Int8 { &Half::BOTH[..] } else { &[] };
        let scales =
            halves.iter().map(move |&half| (slots.map(|slot| self.scale(half, slot)), size_of::<f32>()));
        elements.chain(scales)
    }
}
