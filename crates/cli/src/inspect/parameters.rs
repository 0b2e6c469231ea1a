//! How many weights a configuration implies.

use dsde_checkpoint::config::{DeltaShape, KvHeads, ModelConfig};

/// Weights of a model.
pub(super) fn n_parameters(config: &ModelConfig) -> u64 {
    let hidden = config.hidden as u64;
    let layers: u64 = (0..config.n_layers).map(|layer| of_layer(config, layer)).sum();
    let table = config.n_embeddings as u64 * hidden;
    let inputs = config.layer_inputs.map_or(0, |inputs| {
        let (width, n_embeddings) = (inputs.width as u64, inputs.n_embeddings as u64);
        config.n_layers as u64 * width * (n_embeddings + hidden) + width
    });
    layers + table + optional(!config.tie_embeddings, table) + inputs + hidden
}

fn of_layer(config: &ModelConfig, layer: usize) -> u64 {
    let hidden = config.hidden as u64;
    let mixer = match config.delta.filter(|_| config.layers[layer].is_delta) {
        Some(delta) => of_delta(delta, hidden),
        None => of_attention(config, layer),
    };
    let behind = [config.norms.after_attention, config.norms.after_feed_forward];
    let n_norms = 2 + behind.iter().flatten().count() as u64;
    let input = config.layer_inputs.map_or(0, |inputs| hidden * (2 * inputs.width as u64 + 1));
    mixer + of_feed_forward(config, layer) + n_norms * hidden + input + optional(config.has_layer_scale, 1)
}

/// Projections, convolution, a rate and a bias per head, and the norm of a head.
fn of_delta(delta: DeltaShape, hidden: u64) -> u64 {
    let [conv, values, heads] =
        [delta.conv_width(), delta.values_width(), delta.n_value_heads].map(|n| n as u64);
    let projections = hidden * (conv + 2 * values + 2 * heads);
    projections + conv * delta.conv_len as u64 + 2 * heads + delta.value_dim as u64
}

fn of_attention(config: &ModelConfig, layer: usize) -> u64 {
    let KvHeads { head_dim, .. } = config.kv_heads_of(layer);
    let (hidden, queries) = (config.hidden as u64, (config.n_heads * head_dim) as u64);
    let projected: u64 = config.projections_of(layer).iter().map(|(_, n_out)| *n_out as u64).sum();
    let [q_norm, k_norm] = config.qk_norm_lens(layer).map(|len| len as u64);
    hidden * (projected + queries)
        + optional(config.has_output_gate, hidden * queries)
        + optional(config.has_qkv_bias, projected)
        + optional(config.has_output_bias, hidden)
        + optional(config.has_sinks, config.n_heads as u64)
        + optional(config.has_qk_norm, q_norm)
        + optional(config.has_qk_norm && config.layers[layer].stores(), k_norm)
}

fn of_feed_forward(config: &ModelConfig, layer: usize) -> u64 {
    let (hidden, intermediate) = (config.hidden as u64, config.intermediate_of(layer) as u64);
    let dense = 3 * hidden * intermediate + optional(config.has_mlp_bias, 2 * intermediate + hidden);
    let Some(experts) = config.experts_of(layer) else { return dense };
    let (width, n_experts) = (experts.intermediate as u64, experts.n_experts as u64);
    // The router has one output per expert.
    let extra = optional(experts.has_bias, 2 * width + hidden + 1);
    // So has the gate of the one that all rows ask.
    let shared = experts.shared.map_or(0, |width| hidden * (3 * width as u64 + 1));
    // Four norms, one of them the router's, and a factor per expert.
    let beside = optional(experts.is_beside_dense, dense + 4 * hidden + n_experts);
    n_experts * (hidden * (3 * width + 1) + extra) + shared + beside
}

fn optional(is_there: bool, n: u64) -> u64 {
    if is_there { n } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opened::{Opened, Role};
    use crate::speculation::Source;

    #[test]
    fn parameters_of_the_embedded_pair_are_those_of_its_files() {
        // bf16 files of 11 547 040 and 1 838 440 bytes: two bytes per weight and a header of a few kilobytes.
        for (role, file_bytes) in [(Role::Target, 11_547_040), (Role::Draft, 1_838_440)] {
            let opened = Opened::new(&Source::Demo, role).ok().unwrap();
            let header_bytes = file_bytes - 2 * n_parameters(opened.config());
            assert!((1_000..20_000).contains(&header_bytes), "{header_bytes}");
        }
    }

    #[test]
    fn parameters_of_models_with_delta_layers_are_those_of_their_files() {
        let configs: [&[u8]; 2] = [
            include_bytes!("../../../../tests/fixtures/qwen3_5/config.json"),
            include_bytes!("../../../../tests/fixtures/qwen3_5_moe/config.json"),
        ];
        let counts = configs.map(|config| n_parameters(&ModelConfig::parse(config, None).ok().unwrap()));
        assert_eq!(counts, [52872, 79056]);
    }

    #[test]
    fn parameters_of_models_with_layers_of_several_shapes_are_those_of_their_files() {
        let configs: [&[u8]; 3] = [
            include_bytes!("../../../../tests/fixtures/gemma4/config.json"),
            include_bytes!("../../../../tests/fixtures/gemma4_shared/config.json"),
            include_bytes!("../../../../tests/fixtures/gemma4_moe/config.json"),
        ];
        let counts = configs.map(|config| n_parameters(&ModelConfig::parse(config, None).ok().unwrap()));
        // Less what nobody uses.
        assert_eq!(counts, [13428, 26974, 20741]);
    }
}
