//! A target and an EAGLE-3 head as their papers write them: every position at once, in `f64`, nothing stored.

use super::files::{
    EPS, HEAD_DIM, HIDDEN, Kind, N_HEADS, N_KV_HEADS, N_LAYERS, THETA, Tensors, guessed, state_norm,
};

type Vector = Vec<f64>;

/// A target with its head.
pub(crate) struct Plain<'a> {
    pub(crate) target: &'a Tensors,
    pub(crate) head: &'a Tensors,
    pub(crate) kind: Kind,
}

impl Plain<'_> {
    /// What the head reads of every token: `g = FC(l, m, h)`.
    fn features(&self, tokens: &[u32]) -> Vec<Vector> {
        let taps = self.kind.taps.unwrap_or(&[2, N_LAYERS / 2, N_LAYERS - 3]);
        let mut hidden = embed(&self.target["model.embed_tokens.weight"], tokens);
        let mut states = vec![Vector::new(); tokens.len()];
        for i in 0..N_LAYERS {
            for _ in taps.iter().filter(|&&n_layers| n_layers == i) {
                states.iter_mut().zip(&hidden).for_each(|(states, hidden)| states.extend(hidden));
            }
            let layer = format!("model.layers.{i}");
            let norm = &self.target[&format!("{layer}.input_layernorm.weight")];
            let inputs: Vec<Vector> = hidden.iter().map(|x| normalised(x, norm)).collect();
            hidden = run_layer(self.target, &layer, &inputs, hidden);
        }
        states.iter().map(|states| product(&self.head["fc.weight"], &self.normalised(states))).collect()
    }

    /// States of one token as the projection reads them.
    fn normalised(&self, states: &[f64]) -> Vector {
        match self.kind.n_state_norms {
            0 => states.to_vec(),
            1 => normalised(states, &self.head["input_norm.weight"]),
            n => {
                let each = (0..n).zip(states.chunks_exact(HIDDEN));
                each.flat_map(|(i, state)| normalised(state, &self.head[&state_norm(i)])).collect()
            }
        }
    }

    /// Log-probabilities of the tokens that the head guesses behind `known` tokens and those of a path, the last known token
    /// being one that the target has not read.
    pub(crate) fn log_probs(&self, known: &[u32], path: &[u32]) -> Vec<(u32, f64)> {
        let tokens = [known, path].concat();
        let mut features = self.features(&known[..known.len() - 1]);
        let mut output = Vector::new();
        // Every drafted token waits for the output of the one before, the first for that of the last known token.
        for len in known.len()..=tokens.len() {
            output = self.outputs(&tokens[..len], &features).pop().unwrap();
            let behind_norm = normalised(&output, &self.head["norm.weight"]);
            features.push(if self.kind.norm_output { behind_norm } else { output.clone() });
        }
        let logits = product(&self.head["lm_head.weight"], &normalised(&output, &self.head["norm.weight"]));
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        let vocab_len = self.target["model.embed_tokens.weight"].0[0];
        guessed(vocab_len).into_iter().zip(logits.iter().map(|x| x - log_sum)).collect()
    }

    /// Outputs of the head's layer for all tokens but the first, each of which is read with the feature before it.
    fn outputs(&self, tokens: &[u32], features: &[Vector]) -> Vec<Vector> {
        let layer = self.kind.layer;
        let table = self.head.get("embed_tokens.weight");
        let embedded = embed(table.unwrap_or(&self.target["model.embed_tokens.weight"]), &tokens[1..]);
        let [token_norm, feature_norm] =
            ["input_layernorm", "hidden_norm"].map(|module| &self.head[&format!("{layer}.{module}.weight")]);
        let mut inputs = Vec::new();
        let mut residuals = Vec::new();
        for (token, feature) in embedded.iter().zip(features) {
            let normalised_feature = normalised(feature, feature_norm);
            inputs.push([normalised(token, token_norm), normalised_feature.clone()].concat());
            residuals.push(if self.kind.norm_before_residual { normalised_feature } else { feature.clone() });
        }
        run_layer(self.head, layer, &inputs, residuals)
    }
}

/// A layer over all positions: `inputs` are projected to queries, keys and values, `hidden` is the residual stream.
fn run_layer(tensors: &Tensors, layer: &str, inputs: &[Vector], hidden: Vec<Vector>) -> Vec<Vector> {
    let weight = |module: &str| &tensors[&format!("{layer}.{module}.weight")];
    let projected = |module: &str, n_heads: usize, is_turned: bool| -> Vec<Vec<Vector>> {
        let heads = |(position, x): (usize, &Vector)| {
            let all = product(weight(module), x);
            // Where there is a norm, of queries and keys alone.
            let norm = tensors.get(&format!("{layer}.{}.weight", module.replace("_proj", "_norm")));
            let head = |x: &[f64]| {
                let x = norm.map_or_else(|| x.to_vec(), |norm| normalised(x, norm));
                if is_turned { turned(&x, position) } else { x }
            };
            all.chunks_exact(all.len() / n_heads).map(head).collect()
        };
        inputs.iter().enumerate().map(heads).collect()
    };
    let queries = projected("self_attn.q_proj", N_HEADS, true);
    let keys = projected("self_attn.k_proj", N_KV_HEADS, true);
    let values = projected("self_attn.v_proj", N_KV_HEADS, false);
    let outputs = hidden.into_iter().enumerate().map(|(position, hidden)| {
        let mut attended = Vector::new();
        for (head, query) in queries[position].iter().enumerate() {
            let kv_head = head / (N_HEADS / N_KV_HEADS);
            let scores =
                keys[..=position].iter().map(|keys| dot(query, &keys[kv_head]) / (HEAD_DIM as f64).sqrt());
            let weights: Vector = scores.map(f64::exp).collect();
            let sum: f64 = weights.iter().sum();
            attended.extend((0..HEAD_DIM).map(|dim| {
                let weighted = weights.iter().zip(&values).map(|(w, values)| w * values[kv_head][dim]);
                weighted.sum::<f64>() / sum
            }));
        }
        let hidden = sum(&hidden, &product(weight("self_attn.o_proj"), &attended));
        let x = normalised(&hidden, weight("post_attention_layernorm"));
        let gates = product(weight("mlp.gate_proj"), &x);
        let ups = product(weight("mlp.up_proj"), &x);
        let gated: Vector =
            gates.iter().zip(&ups).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
        sum(&hidden, &product(weight("mlp.down_proj"), &gated))
    });
    outputs.collect()
}

fn embed((shape, table): &(Vec<usize>, Vec<f32>), tokens: &[u32]) -> Vec<Vector> {
    let row =
        |&token: &u32| table[token as usize * shape[1]..][..shape[1]].iter().map(|&x| f64::from(x)).collect();
    tokens.iter().map(row).collect()
}

fn product((shape, weights): &(Vec<usize>, Vec<f32>), x: &[f64]) -> Vector {
    assert_eq!(shape[1], x.len());
    weights
        .chunks_exact(shape[1])
        .map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum())
        .collect()
}

fn normalised(x: &[f64], (_, weight): &(Vec<usize>, Vec<f32>)) -> Vector {
    let mean_square = dot(x, x) / x.len() as f64;
    x.iter().zip(weight).map(|(x, &w)| x / (mean_square + EPS).sqrt() * f64::from(w)).collect()
}

/// Rotary embedding of one head.
fn turned(x: &[f64], position: usize) -> Vector {
    let half = x.len() / 2;
    let mut out = x.to_vec();
    for i in 0..half {
        let angle = position as f64 * THETA.powf(-2.0 * i as f64 / x.len() as f64);
        out[i] = x[i] * angle.cos() - x[i + half] * angle.sin();
        out[i + half] = x[i + half] * angle.cos() + x[i] * angle.sin();
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sum(a: &[f64], b: &[f64]) -> Vector {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
