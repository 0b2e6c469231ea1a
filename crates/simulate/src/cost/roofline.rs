//! Costs by data sheet: a pass takes as long as its slower half, reading or multiplying.
//!
//! ```text
//! products  = max(weights read / bandwidth, products and sums / flops)
//! attention = max(keys and values read / bandwidth, products and sums / flops)
//! pass      = max(products + attention + activations, layers * layer_min) + collectives + pass
//! ```
//!
//! The roofline model is of Williams, Waterman and Patterson (2009). What it leaves out: tiles (a product over 65 rows costs as much as
//! one over 128 on some devices), reads and products that overlap across kernels, caches, and clocks that fall under load.
//! Tensor parallel divides weights, stores and products evenly and adds two collective sums per layer; a ring of `n` devices moves
//! `2 (n - 1) / n` times the rows.

use crate::device::{Device, Efficiency};
use crate::dimensions::Dimensions;
use crate::pass::Pass;

/// Bytes of a number that is computed: activations are of 16 bits.
const ACTIVATION_BYTES: f64 = 2.0;
/// Bytes of a logit, which is written once and read twice (softmax, draw).
const LOGIT_BYTES: f64 = 12.0;

/// One model on its devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Its shape.
    pub model: Dimensions,
    /// Where it runs.
    pub device: Device,
    /// What is reached there.
    pub efficiency: Efficiency,
    /// Devices that share each layer.
    pub tensor_parallel: u32,
    /// Bytes of a weight; 2 for 16 bits, 1 for 8, 0.5 and a sixteenth more for 4 with scales.
    pub weight_bytes: f64,
    /// Bytes of a stored key or value.
    pub kv_bytes: f64,
}

/// Target and draft.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// Target.
    pub target: Side,
    /// Draft, if there is one.
    pub draft: Option<Side>,
}

impl Side {
    /// Seconds of a pass.
    pub fn pass(&self, pass: &Pass) -> f64 {
        let (device, efficiency, model) = (&self.device, &self.efficiency, &self.model);
        let n_devices = f64::from(self.tensor_parallel);
        let bandwidth = n_devices * device.bandwidth * efficiency.bandwidth;
        let flops = n_devices * device.flops;
        let products = (model.weights_read(pass.rows, pass.logit_rows) * self.weight_bytes / bandwidth)
            .max(model.flops(pass.rows, pass.logit_rows) / (flops * efficiency.flops));
        let attention = (self.kv_position_bytes() * self.over_layers(pass.positions) / bandwidth).max(
            model.attention_flops() * self.over_layers(pass.seen) / (flops * efficiency.attention_flops),
        );
        let activations = pass.rows * model.activation_len() as f64 * ACTIVATION_BYTES / bandwidth;
        let logits = pass.logit_rows * model.vocab as f64 * LOGIT_BYTES / bandwidth;
        let launched = model.layers as f64 * efficiency.layer_min;
        (products + attention + activations + logits).max(launched)
            + self.collectives(pass.rows)
            + efficiency.pass
    }

    /// Two sums per layer over all devices.
    fn collectives(&self, rows: f64) -> f64 {
        let n = f64::from(self.tensor_parallel);
        if self.tensor_parallel == 1 {
            return 0.0;
        }
        let bytes = rows * self.model.hidden as f64 * ACTIVATION_BYTES * 2.0 * (n - 1.0) / n;
        2.0 * self.model.layers as f64 * (self.device.link_latency + bytes / self.device.link)
    }

    /// A mean of what layers see, half of which may have a window.
    fn over_layers(&self, [all, windowed]: [f64; 2]) -> f64 {
        if self.model.window.is_some() { (all + windowed) / 2.0 } else { all }
    }

    /// Bytes of the keys and values of one position.
    pub fn kv_position_bytes(&self) -> f64 {
        self.model.kv_len() as f64 * self.kv_bytes
    }

    /// Bytes of all weights.
    pub fn weights_bytes(&self) -> f64 {
        self.model.parameters() as f64 * self.weight_bytes
    }
}

impl Roofline {
    /// Seconds around the passes of a step.
    pub fn step(&self, pass: &Pass) -> f64 {
        let efficiency = &self.target.efficiency;
        efficiency.step + efficiency.step_per_sequence * pass.seqs
    }

    /// Seconds to read the draft's weights from the host's memory.
    pub fn reload_draft(&self) -> f64 {
        self.draft.as_ref().map_or(0.0, |draft| {
            draft.weights_bytes() / (f64::from(draft.tensor_parallel) * draft.device.host_link)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DEVICES, Runtime};
    use crate::dimensions::MODELS;

    fn side(model: &str, device: &str, tensor_parallel: u32) -> Side {
        Side {
            model: *MODELS.iter().find(|other| other.name == model).unwrap(),
            device: *DEVICES.iter().find(|other| other.name == device).unwrap(),
            efficiency: Efficiency::of(Runtime::Graphs),
            tensor_parallel,
            weight_bytes: 2.0,
            kv_bytes: 2.0,
        }
    }

    /// `n` sequences of one row at a context.
    fn decode(n: f64, context: f64) -> Pass {
        Pass {
            seqs: n,
            rows: n,
            logit_rows: n,
            positions: [n * context; 2],
            seen: [n * context; 2],
            ..Pass::default()
        }
    }

    #[test]
    fn one_row_takes_the_time_of_the_weights() {
        // 8.03e9 weights less the table of embeddings of 0.525e9, 2 bytes each, at 0.8 of 2.039e12 bytes per second: 9.2 ms.
        let seconds = side("llama-3.1-8b", "a100-80", 1).pass(&decode(1.0, 1.0));
        assert!((seconds - 9.4e-3).abs() < 0.1e-3, "{seconds}");
    }

    #[test]
    fn rows_are_free_until_arithmetic_is_the_slower_half() {
        let side = side("llama-3.1-8b", "a100-80", 1);
        let time = |rows: f64| side.pass(&decode(rows, 1.0));
        assert!(time(64.0) / time(1.0) < 1.15);
        // 2 * 7.5e9 * 1024 / (0.65 * 312e12) = 75.8 ms of products.
        assert!((time(1024.0) - 79e-3).abs() < 3e-3, "{}", time(1024.0));
    }

    #[test]
    fn two_devices_halve_the_reading_and_add_sums() {
        let one = side("llama-3.1-8b", "h100", 1).pass(&decode(1.0, 1.0));
        let two = side("llama-3.1-8b", "h100", 2).pass(&decode(1.0, 1.0));
        // 5.6 ms; half of it and 64 sums at 10 us.
        assert!(one > 5.5e-3 && one < 6.0e-3, "{one}");
        assert!((two - (one - 0.2e-3) / 2.0 - 0.84e-3).abs() < 0.05e-3, "{two}");
    }

    #[test]
    fn contexts_count_and_windows_bound_them() {
        let llama = side("llama-3.1-8b", "a100-80", 1);
        // 64 * 8192 positions of 131072 bytes: 68.7 GB at 1.63e12 per second.
        let added = llama.pass(&decode(64.0, 8192.0)) - llama.pass(&decode(64.0, 1.0));
        assert!((added - 42.1e-3).abs() < 0.3e-3, "{added}");
        let gemma = side("gemma-2-27b", "h100", 1);
        let windowed = Pass { positions: [8192.0, 4096.0], seen: [8192.0, 4096.0], ..decode(1.0, 8192.0) };
        let (all, half) = (gemma.pass(&decode(1.0, 8192.0)), gemma.pass(&windowed));
        assert!(half < all);
    }

    #[test]
    fn an_eager_program_cannot_be_faster_than_its_launches() {
        let mut side = side("llama-3.2-1b", "h100", 1);
        side.efficiency = Efficiency::of(Runtime::Eager);
        // 16 layers at 180 us and 0.5 ms; the weights alone would take 0.92 ms.
        assert!((side.pass(&decode(1.0, 1.0)) - 3.38e-3).abs() < 1e-5);
    }
}
