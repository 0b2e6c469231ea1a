//! `[machine]`, `[pair]` and `[engine]`: what a pass costs, and what fits.

use std::path::Path;

use dsde_engine::{Config, Shape};
use dsde_sampling::proposal::NODES_MAX;

use super::beside;
use super::section::Section;
use crate::cost::{Costs, Measured, Roofline, Side};
use crate::device::{DEVICES, Device, Efficiency, Runtime};
use crate::dimensions::{Dimensions, MODELS};
use crate::error::Error;
use crate::executor::Pair;
use crate::load::Load;
use crate::trace;

pub(super) struct Machine {
    pub(super) costs: Costs,
    pub(super) hardware: Hardware,
    pub(super) pair: Pair,
    pub(super) engine: Config,
    pub(super) has_draft: bool,
    pub(super) noise: f64,
    pub(super) profiles: bool,
    weights_gib: f64,
    memory_gib: f64,
}

/// What a pair runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    /// The pair, in words.
    pub pair: String,
    /// Machine and runtime, in words.
    pub machine: String,
    /// What an hour of it costs, US dollars; not known of a machine that was measured.
    pub dollars_per_hour: Option<f64>,
}

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;
/// Blocks of a store where nobody says how many and no memory bounds them.
const BLOCKS_DEFAULT: u32 = 1 << 16;
/// Most blocks of a store.
const BLOCKS_MAX: u32 = 1 << 26;

pub(super) fn read(
    machine: &Section<'_>,
    engine: Option<Section<'_>>,
    pair: &Section<'_>,
    folder: &Path,
) -> Result<Machine, Error> {
    pair.known(&["target", "draft", "weight_bits", "draft_weight_bits", "kv_bits"])?;
    let target = model(pair, "target")?.ok_or_else(|| pair.missing("target", models()))?;
    let draft = model(pair, "draft")?;
    let kept = Kept { weight_bits: bits(pair, "weight_bits")?, kv_bits: bits(pair, "kv_bits")? };
    let draft_bits = pair.number("draft_weight_bits", 1.0..=32.0)?.unwrap_or(kept.weight_bits);
    let pretended = Pretended { target, draft, kept, draft_bits };
    let limits = Limits::read(engine)?;
    let noise = machine.number("noise", 0.0..=1.0)?.unwrap_or(0.0);
    let profiles = machine.flag("profile")?.unwrap_or(true);
    let read = match machine.text("trace")? {
        Some(file) => measured(machine, &pretended, &limits, &beside(folder, file))?,
        None => priced(machine, &pretended, &limits)?,
    };
    Ok(Machine { noise, profiles, ..read })
}

/// How numbers are stored.
#[derive(Clone, Copy)]
struct Kept {
    weight_bits: f64,
    kv_bits: f64,
}

struct Pretended {
    target: Dimensions,
    draft: Option<Dimensions>,
    kept: Kept,
    draft_bits: f64,
}

impl Pretended {
    fn shape(&self, limits: &Limits, n_blocks: u32) -> Shape {
        Shape {
            vocab_len: self.target.vocab as u32,
            context_len_max: limits.context.unwrap_or(self.target.context).min(self.target.context),
            block_len: limits.block_len,
            n_blocks,
            draft_context_len: self.draft.map(|draft| draft.context),
            draft_reads_target: false,
            window: limits.window,
            n_states: limits.n_states,
        }
    }

    fn pair(&self, limits: &Limits, n_blocks: u32, lendable_blocks: u32) -> Pair {
        Pair {
            shape: self.shape(limits, n_blocks),
            windows: [self.target.window, self.draft.and_then(|draft| draft.window)],
            lendable_blocks,
        }
    }

    fn name(&self) -> String {
        let draft = self.draft.map_or_else(String::new, |draft| format!(" + {}", draft.name));
        format!("{}{draft}", self.target.name)
    }
}

/// `[engine]`.
struct Limits {
    engine: Config,
    block_len: u32,
    n_blocks: Option<u32>,
    window: Option<u32>,
    context: Option<u32>,
    n_states: u32,
}

impl Limits {
    fn read(section: Option<Section<'_>>) -> Result<Self, Error> {
        // Wider than the engine's own, which are for a CPU: those of vLLM on an accelerator.
        let mut engine = Config {
            sequences_max: 256,
            rows_max: 2048,
            drafted_max: 1 << 14,
            sl_limit: NODES_MAX,
            ..Config::default()
        };
        let mut limits =
            Self { engine, block_len: 16, n_blocks: None, window: None, context: None, n_states: 0 };
        let Some(section) = section else { return Ok(limits) };
        let counts: [(&'static str, &mut u32, u32, u32); 6] = [
            ("sequences_max", &mut engine.sequences_max, 1, 4096),
            ("rows_max", &mut engine.rows_max, 1, 1 << 16),
            ("waiting_max", &mut engine.waiting_max, 1, 1 << 20),
            ("drafted_max", &mut engine.drafted_max, 0, 1 << 16),
            ("sl_limit", &mut engine.sl_limit, 0, NODES_MAX),
            ("block_len", &mut limits.block_len, 1, 1024),
        ];
        for (key, place, min, max) in counts {
            *place = section.count(key, min..=max)?.unwrap_or(*place);
        }
        engine.rows_max = engine.rows_max.max(engine.sequences_max);
        engine.prefix_cache = section.flag("prefix_cache")?.unwrap_or(engine.prefix_cache);
        limits.n_blocks = section.count("kv_blocks", 1..=BLOCKS_MAX)?;
        limits.window = section.count("window", 1..=1 << 20)?;
        limits.context = section.count("context", 2..=1 << 24)?;
        limits.n_states = section.count("states", 0..=1 << 16)?.unwrap_or(0);
        limits.engine = engine;
        section.end()?;
        Ok(limits)
    }
}

fn models() -> String {
    let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
    format!("one of: {}", names.join(", "))
}

fn model(section: &Section<'_>, key: &'static str) -> Result<Option<Dimensions>, Error> {
    let Some(name) = section.text(key)? else { return Ok(None) };
    let found = MODELS.iter().find(|model| model.name == name).copied();
    found.map(Some).ok_or_else(|| section.wrong(key, models(), format!("'{name}'")))
}

fn bits(section: &Section<'_>, key: &'static str) -> Result<f64, Error> {
    Ok(section.number(key, 1.0..=32.0)?.unwrap_or(16.0))
}

/// Prices are those of a machine's steps.
fn measured(
    machine: &Section<'_>,
    pretended: &Pretended,
    limits: &Limits,
    path: &Path,
) -> Result<Machine, Error> {
    machine.known(&["trace", "noise", "profile"])?;
    let costs = Costs::Measured(Measured::fit(&trace::read(path)?, path)?);
    let hardware = Hardware {
        pair: pretended.name(),
        machine: format!("as measured in {}", path.display()),
        dollars_per_hour: None,
    };
    Ok(Machine {
        costs,
        hardware,
        pair: pretended.pair(limits, limits.n_blocks.unwrap_or(BLOCKS_DEFAULT), 0),
        engine: limits.engine,
        has_draft: pretended.draft.is_some(),
        noise: 0.0,
        profiles: true,
        weights_gib: 0.0,
        memory_gib: 0.0,
    })
}

/// Prices are those of a data sheet.
fn priced(machine: &Section<'_>, pretended: &Pretended, limits: &Limits) -> Result<Machine, Error> {
    machine.known(MACHINE_KEYS)?;
    let device = device(machine)?;
    let runtime = match machine.word("runtime", &["graphs", "eager"])? {
        Some("eager") => Runtime::Eager,
        _ => Runtime::Graphs,
    };
    let efficiency = efficiency(machine, runtime)?;
    let n_devices = machine.count("tensor_parallel", 1..=64)?.unwrap_or(1);
    let n_draft_devices = machine.count("draft_tensor_parallel", 1..=n_devices)?.unwrap_or(n_devices);
    let share = machine.number("memory_share", 0.01..=1.0)?.unwrap_or(0.9);
    let dollars = machine.number("dollars_per_hour", 0.0..=1e6)?;
    let side = |model, bits: f64, tensor_parallel| Side {
        model,
        device,
        efficiency,
        tensor_parallel,
        weight_bytes: bits / 8.0,
        kv_bytes: pretended.kept.kv_bits / 8.0,
    };
    let target = side(pretended.target, pretended.kept.weight_bits, n_devices);
    let draft = pretended.draft.map(|draft| side(draft, pretended.draft_bits, n_draft_devices));
    let room = Room::of(&target, draft.as_ref(), device.memory_bytes * share);
    let n_blocks = limits.n_blocks.unwrap_or_else(|| room.n_blocks(limits.block_len));
    let hardware = Hardware {
        pair: pretended.name(),
        machine: format!(
            "{n_devices} x {}, {}",
            device.name,
            if runtime == Runtime::Eager { "eager" } else { "graphs" }
        ),
        dollars_per_hour: Some(dollars.unwrap_or(f64::from(n_devices) * device.dollars_per_hour)),
    };
    Ok(Machine {
        hardware,
        pair: pretended.pair(limits, n_blocks.max(1), room.lendable_blocks(limits.block_len, n_blocks)),
        engine: limits.engine,
        has_draft: draft.is_some(),
        noise: 0.0,
        profiles: true,
        weights_gib: room.weights / GIB,
        memory_gib: room.memory / GIB,
        costs: Costs::Roofline(Box::new(Roofline { target, draft })),
    })
}

const MACHINE_KEYS: &[&str] = &[
    "device",
    "tensor_parallel",
    "draft_tensor_parallel",
    "runtime",
    "memory_share",
    "dollars_per_hour",
    "bandwidth_share",
    "flops_share",
    "attention_flops_share",
    "layer_us",
    "pass_ms",
    "step_ms",
    "sequence_us",
    "noise",
    "profile",
    "trace",
];

fn device(machine: &Section<'_>) -> Result<Device, Error> {
    let names: Vec<&str> = DEVICES.iter().map(|device| device.name).collect();
    let name = machine.word("device", &names)?;
    let name = name.ok_or_else(|| {
        machine.missing(
            "device",
            format!("one of: {}; or `machine.trace` a trace of a machine", names.join(", ")),
        )
    })?;
    Ok(*DEVICES.iter().find(|device| device.name == name).expect("checked above"))
}

fn efficiency(machine: &Section<'_>, runtime: Runtime) -> Result<Efficiency, Error> {
    let mut efficiency = Efficiency::of(runtime);
    let shares: [(&'static str, &mut f64); 3] = [
        ("bandwidth_share", &mut efficiency.bandwidth),
        ("flops_share", &mut efficiency.flops),
        ("attention_flops_share", &mut efficiency.attention_flops),
    ];
    for (key, place) in shares {
        *place = machine.number(key, 0.01..=1.0)?.unwrap_or(*place);
    }
    let times: [(&'static str, &mut f64, f64); 4] = [
        ("layer_us", &mut efficiency.layer_min, 1e6),
        ("pass_ms", &mut efficiency.pass, 1e3),
        ("step_ms", &mut efficiency.step, 1e3),
        ("sequence_us", &mut efficiency.step_per_sequence, 1e6),
    ];
    for (key, place, per_second) in times {
        *place = machine.number(key, 0.0..=1e6)?.map_or(*place, |time| time / per_second);
    }
    Ok(efficiency)
}

/// Bytes of the devices that hold most: all of the draft stands on the first of them, where it is not shared out.
struct Room {
    weights: f64,
    memory: f64,
    draft_weights: f64,
    position_bytes: [f64; 2],
}

impl Room {
    fn of(target: &Side, draft: Option<&Side>, memory: f64) -> Self {
        let share = |side: &Side, bytes: f64| bytes / f64::from(side.tensor_parallel);
        let draft_weights = draft.map_or(0.0, |draft| share(draft, draft.weights_bytes()));
        Self {
            weights: share(target, target.weights_bytes()) + draft_weights,
            memory,
            draft_weights,
            position_bytes: [
                share(target, target.kv_position_bytes()),
                draft.map_or(0.0, |draft| share(draft, draft.kv_position_bytes())),
            ],
        }
    }

    fn n_blocks(&self, block_len: u32) -> u32 {
        let block = f64::from(block_len) * (self.position_bytes[0] + self.position_bytes[1]);
        ((self.memory - self.weights) / block).clamp(0.0, f64::from(BLOCKS_MAX)) as u32
    }

    /// Blocks of the target that the draft's weights and stores make room for.
    fn lendable_blocks(&self, block_len: u32, n_blocks: u32) -> u32 {
        let block = f64::from(block_len) * self.position_bytes[0];
        let stores = f64::from(n_blocks) * f64::from(block_len) * self.position_bytes[1];
        ((self.draft_weights + stores) / block) as u32
    }
}

impl Machine {
    /// The longest request fits into the store.
    pub(super) fn check_room(&self, load: &Load) -> Result<(), Error> {
        let shape = &self.pair.shape;
        let len = load.longest().min(shape.context_len_max);
        if shape.storable_len() < len {
            return Err(Error::Memory {
                weights_gib: self.weights_gib,
                memory_gib: self.memory_gib,
                n_blocks: shape.n_blocks,
                block_len: shape.block_len,
                n_blocks_min: len.div_ceil(shape.block_len),
            });
        }
        Ok(())
    }
}
