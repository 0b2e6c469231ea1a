//! Accelerators as numbers.
//!
//! *Published* numbers are of the makers' data sheets; peaks are dense and for products of 16-bit floating point numbers summed
//! in 32 bits. What a program reaches of them is *estimated*: no accelerator was at hand.

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// One kind of accelerator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// As typed.
    pub name: &'static str,
    /// Memory, bytes. Published.
    pub memory_bytes: f64,
    /// Reads of its memory, bytes per second. Published.
    pub bandwidth: f64,
    /// Products and sums of 16-bit numbers, per second, each counted. Published.
    pub flops: f64,
    /// To its neighbours in one direction, bytes per second. Published.
    pub link: f64,
    /// Before the first byte of a collective operation arrives, seconds. Estimated: NCCL's small all-reduce takes 10 to 20 us on
    /// NVLink, and about twice that over PCIe.
    pub link_latency: f64,
    /// To the host's memory in one direction, bytes per second. Published.
    pub host_link: f64,
    /// What an hour costs, US dollars. Estimated: rented on demand late in 2025; scenarios may say another.
    pub dollars_per_hour: f64,
}

/// Every accelerator by name.
pub const DEVICES: [Device; 5] = [
    // NVIDIA A100 80 GB SXM data sheet (2021): 2039 GB/s, 312 TFLOPS, NVLink 600 GB/s in both directions together, PCIe 4.0.
    Device {
        name: "a100-80",
        memory_bytes: 80.0 * GIB,
        bandwidth: 2.039e12,
        flops: 312e12,
        link: 300e9,
        link_latency: 12e-6,
        host_link: 32e9,
        dollars_per_hour: 1.8,
    },
    // NVIDIA H100 SXM data sheet (2023): 3.35 TB/s, 989 TFLOPS, NVLink 900 GB/s, PCIe 5.0.
    Device {
        name: "h100",
        memory_bytes: 80.0 * GIB,
        bandwidth: 3.35e12,
        flops: 989e12,
        link: 450e9,
        link_latency: 10e-6,
        host_link: 64e9,
        dollars_per_hour: 3.0,
    },
    // NVIDIA H200 SXM data sheet (2024): 141 GB, 4.8 TB/s, otherwise as the H100.
    Device {
        name: "h200",
        memory_bytes: 141e9,
        bandwidth: 4.8e12,
        flops: 989e12,
        link: 450e9,
        link_latency: 10e-6,
        host_link: 64e9,
        dollars_per_hour: 3.8,
    },
    // NVIDIA L40S data sheet (2023): 48 GB, 864 GB/s, 362 TFLOPS, PCIe 4.0 only.
    Device {
        name: "l40s",
        memory_bytes: 48.0 * GIB,
        bandwidth: 864e9,
        flops: 362e12,
        link: 32e9,
        link_latency: 25e-6,
        host_link: 32e9,
        dollars_per_hour: 0.9,
    },
    // NVIDIA Ada GPU architecture paper (2022), RTX 4090: 24 GB, 1008 GB/s, 165.2 TFLOPS with sums of 32 bits, PCIe 4.0 only.
    Device {
        name: "rtx-4090",
        memory_bytes: 24.0 * GIB,
        bandwidth: 1.008e12,
        flops: 165.2e12,
        link: 32e9,
        link_latency: 25e-6,
        host_link: 32e9,
        dollars_per_hour: 0.4,
    },
];

/// How passes are launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// A pass is one recorded graph.
    #[default]
    Graphs,
    /// Every kernel is launched by the host, layer by layer.
    Eager,
}

/// What a program reaches of a device, and what it spends beside it. All of it is estimated, and a scenario may say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Efficiency {
    /// Share of the bandwidth that weights and stores are read at. 0.8: products of a matrix and a few rows are published at 75 to 90 %.
    pub bandwidth: f64,
    /// Share of the peak that large products reach. 0.65: published for 16-bit products of these shapes at 60 to 75 %.
    pub flops: f64,
    /// Likewise of attention, whose products are small. 0.35: FlashAttention-2 is published at 35 to 60 % (arXiv:2307.08691).
    pub attention_flops: f64,
    /// The least time of a layer, seconds: its kernels follow each other whatever they have to do. Graphs 20 us (eight kernels at
    /// 2 to 3 us); eager 180 us, at which the host launches a layer of a Python program (vLLM without graphs decodes 80 layers in
    /// 15 to 20 ms).
    pub layer_min: f64,
    /// Around a pass, seconds: input, output, sampling. Graphs 0.2 ms, eager 0.5 ms.
    pub pass: f64,
    /// Around a step, seconds: scheduling, block tables, detokenisation. 1 ms with graphs (vLLM's V1 engine), 4 ms eager (V0).
    pub step: f64,
    /// Likewise for each sequence, seconds. 10 us with graphs, 40 us eager.
    pub step_per_sequence: f64,
}

impl Efficiency {
    /// What is usual for a runtime.
    pub fn of(runtime: Runtime) -> Self {
        let (layer_min, pass, step, step_per_sequence) = match runtime {
            Runtime::Graphs => (20e-6, 0.2e-3, 1e-3, 10e-6),
            Runtime::Eager => (180e-6, 0.5e-3, 4e-3, 40e-6),
        };
        Self { bandwidth: 0.8, flops: 0.65, attention_flops: 0.35, layer_min, pass, step, step_per_sequence }
    }
}
