//! Groups written into a packed panel, and read from it number by number.

use dsde_checkpoint::Group;

use super::super::tile::LANES;
use super::super::weights::f16_value;
use super::{Layout, PLANE_BYTES, QUAD, QUADS, Scales};

impl Layout {
    /// Writes group `step` of a column (below 32) into a panel.
    pub(in super::super) fn write(self, panel: &mut [u8], step: usize, column: usize, group: &Group) {
        let at = self.step_at(step);
        let kinds = group.units.into_iter().zip([group.scales, group.mins]).take(self.kinds());
        for (kind, (unit, numbers)) in kinds.enumerate() {
            if self.scales() == Scales::Shared {
                put(panel, self.unit_at(step, kind, column), f16_bytes(unit));
            }
            for (part, number) in numbers.into_iter().take(self.parts()).enumerate() {
                let at = at + self.scale_at(kind, part, column);
                match self.scales() {
                    Scales::F32 => put(panel, at, unit.to_ne_bytes()),
                    Scales::F16 => put(panel, at, f16_bytes(unit)),
                    Scales::Shared => put(panel, at, number.to_ne_bytes()),
                }
            }
        }
        let half = &mut panel[at + column / LANES * self.code_bytes()..][..self.code_bytes()];
        self.write_codes(half, column % LANES, &group.codes);
    }

    /// Writes the codes of a column (below 16) into those of its half.
    fn write_codes(self, half: &mut [u8], column: usize, codes: &[i8; Group::LEN]) {
        // A loop, because a closure that is not inlined asks for the layout again at every code.
        let mut stored = [0; Group::LEN];
        for (stored, &code) in stored.iter_mut().zip(codes) {
            *stored = self.stored(code);
        }
        let quads = stored.as_chunks::<QUAD>().0;
        let mut put_quad = |at: usize, quad: [u8; QUAD]| put(half, (at * LANES + column) * QUAD, quad);
        if self.bits() == 8 {
            quads.iter().enumerate().for_each(|(at, quad)| put_quad(at, *quad));
            return;
        }
        for (at, [low, high]) in quads.as_chunks::<2>().0.iter().enumerate() {
            put_quad(at, std::array::from_fn(|i| low[i] & 15 | high[i] << 4));
        }
        // What is left of a code, as many bits of each quad as there are.
        let n_bits = self.bits() - 4;
        let quads_per_plane = 8 / n_bits.max(1);
        for plane in 0..n_bits {
            let quads = &quads[plane * quads_per_plane..(plane + 1) * quads_per_plane];
            let merged = quads.iter().enumerate().fold([0; QUAD], |merged, (at, quad)| {
                std::array::from_fn(|i| merged[i] | quad[i] >> 4 << (at * n_bits))
            });
            put_quad(QUADS / 2 + plane, merged);
        }
    }

    /// Elements of group `step` of a column (below 32).
    pub(in super::super) fn values(self, panel: &[u8], step: usize, column: usize) -> [f32; Group::LEN] {
        let number = |kind, i: usize| self.number(panel, step, kind, i / (Group::LEN / self.parts()), column);
        std::array::from_fn(|i| {
            let min = if self.has_min() { number(1, i) } else { -0.0 };
            number(0, i) * f32::from(self.code(panel, step, column, i)) + min
        })
    }

    /// Scale (`kind` 0) or minimum (1) `part` of group `step` of a column (below 32).
    #[inline(always)]
    pub(in super::super) fn number(
        self,
        panel: &[u8],
        step: usize,
        kind: usize,
        part: usize,
        column: usize,
    ) -> f32 {
        let at = self.step_at(step) + self.scale_at(kind, part, column);
        let half = |at| f16_value(u16::from_ne_bytes(get(panel, at)));
        match self.scales() {
            Scales::F32 => f32::from_ne_bytes(get(panel, at)),
            Scales::F16 => half(at),
            Scales::Shared => {
                half(self.unit_at(step, kind, column)) * f32::from(i8::from_ne_bytes(get(panel, at)))
            }
        }
    }

    /// The bits that stand for a code.
    #[inline(always)]
    fn stored(self, code: i8) -> u8 {
        match self.table() {
            Some(table) => {
                let place = table.iter().position(|&value| value == code);
                place.expect("codes of the type are in its table") as u8
            }
            None => code.wrapping_add(self.offset() as i8).cast_unsigned(),
        }
    }

    /// The code of an input of group `step` of a column (below 32).
    #[inline(always)]
    pub(in super::super) fn code(self, panel: &[u8], step: usize, column: usize, input: usize) -> i8 {
        let half = &panel[self.step_at(step) + column / LANES * self.code_bytes()..][..self.code_bytes()];
        let (quad, byte) = (input / QUAD, column % LANES * QUAD + input % QUAD);
        if self.bits() == 8 {
            return half[quad * LANES * QUAD + byte].cast_signed().wrapping_sub(self.offset() as i8);
        }
        let low = half[quad / 2 * LANES * QUAD + byte] >> (quad % 2 * 4) & 15;
        let planes = &half[4 * PLANE_BYTES..];
        let high = match self.bits() {
            5 => planes[byte] >> quad & 1,
            6 => planes[quad / 4 * LANES * QUAD + byte] >> (quad % 4 * 2) & 3,
            _ => 0,
        };
        match self.table() {
            Some(table) => table[usize::from(low)],
            None => (low | high << 4).cast_signed() - self.offset() as i8,
        }
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, x: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&x);
}

#[inline(always)]
fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("a panel holds its steps")
}

/// A number that half precision holds.
fn f16_bytes(x: f32) -> [u8; 2] {
    half::f16::from_f32(x).to_bits().to_ne_bytes()
}
