//! Vocabulary passes give the same bits on every instruction set.

use dsde_sampling::{Divergence, Params, Scratch, Shape, argmax, softmax};

use crate::support::{Numbers, bits};
use dsde_kernels::cpu::{Isa, Kernel};

/// Every pass over one pair of rows.
struct Passes<'a> {
    target: &'a [f32],
    draft: &'a [f32],
    params: &'a Params,
}

impl Kernel for Passes<'_> {
    type Output = (Vec<f32>, u32, [Divergence; 2], Shape);

    #[inline(always)]
    fn run(self) -> Self::Output {
        let mut probabilities = [self.target.to_vec(), self.draft.to_vec()];
        for row in &mut probabilities {
            softmax(row, self.params, &mut Scratch::default());
        }
        let [p, q] = &probabilities;
        let divergences =
            [Divergence::of_logits(self.target, self.draft, 0.7), Divergence::of_probabilities(p, q)];
        let shape = Shape::of_probabilities(q);
        (probabilities.concat(), argmax(self.target), divergences, shape)
    }
}

#[test]
fn vocabulary_passes_have_the_same_bits_on_every_instruction_set() {
    let params = Params { temperature: 0.8, top_p: 0.9, ..Params::greedy() };
    for len in [1, 16, 100, 1000, 4099] {
        let target: Vec<f32> = Numbers::new(1).units(len).iter().map(|x| 9.0 * x).collect();
        let draft: Vec<f32> = Numbers::new(2).units(len).iter().map(|x| 9.0 * x).collect();
        let passes = || Passes { target: &target, draft: &draft, params: &params };
        let (expected_p, expected_argmax, expected_divergences, expected_shape) = Isa::Portable.run(passes());
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let (p, argmax, divergences, shape) = isa.run(passes());
            assert!(bits(&p) == bits(&expected_p), "probabilities of {len} on {isa:?}");
            assert_eq!(argmax, expected_argmax, "{len} on {isa:?}");
            assert_eq!(divergences, expected_divergences, "{len} on {isa:?}");
            assert_eq!(shape, expected_shape, "{len} on {isa:?}");
        }
    }
}
