//! What the machine says about itself.

use std::fs;
use std::thread;

use dsde_bench::Machine;

/// Instruction sets that decide which kernels run, as Linux names them.
const ISA: [&str; 13] = [
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
];

/// Describes this machine; what cannot be read is `unknown`, empty or 0.
///
/// `backend`: kernels and threads in use, in the backend's words.
pub(crate) fn describe(backend: String) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
        cores: n_cores(),
        isa: isa(&cpuinfo),
        memory_bytes: memory_bytes().unwrap_or(0),
        os: format!("{} {}", std::env::consts::OS, release.trim()).trim_end().to_owned(),
        backend,
    }
}

/// Logical cores that this process may use; 1 if that cannot be told.
pub(crate) fn n_cores() -> u32 {
    thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Main memory; `None` if that cannot be told.
fn memory_bytes() -> Option<u64> {
    total_bytes(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Memory that this process may use: main memory, or less where its control group (Linux, version 2) or its address space has a
/// limit; `None` if that cannot be told.
pub(crate) fn memory_bytes_usable() -> Option<u64> {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| limit_bytes(&text));
    let space = fs::read_to_string("/proc/self/limits").ok().and_then(|text| address_space_bytes(&text));
    memory_bytes().into_iter().chain(group).chain(space).min()
}

/// The soft limit; `None` where there is none.
fn address_space_bytes(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `None` where there is no limit.
fn limit_bytes(memory_max: &str) -> Option<u64> {
    memory_max.trim().parse().ok()
}

fn isa(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    let is_present = |name: &&str| flags.split(' ').any(|flag| flag == *name);
    ISA.iter().filter(|name| is_present(name)).map(|&name| name.to_owned()).collect()
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, "MemTotal")?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let is_named = |line: &&'a str| line.split(':').next().is_some_and(|key| key.trim() == name);
    let (_, value) = text.lines().find(is_named)?.split_once(':')?;
    Some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_linux_writes_them() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3.0\nflags\t\t: fpu avx2 avx512f avx2x\n";
        assert_eq!(field(cpuinfo, "model name"), Some("Some CPU @ 3.0"));
        assert_eq!(isa(cpuinfo), ["avx2", "avx512f"]);
        assert_eq!(total_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!((limit_bytes("4096\n"), limit_bytes("max\n")), (Some(4096), None));
        let limits =
            |space| format!("Max processes  5  9  processes\nMax address space  {space}  unlimited  bytes\n");
        assert_eq!(address_space_bytes(&limits("3072")), Some(3072));
        assert_eq!(address_space_bytes(&limits("unlimited")), None);
    }

    #[test]
    fn a_machine_that_says_nothing_is_still_described() {
        assert_eq!(isa(""), [""; 0]);
        assert_eq!(total_bytes(""), None);
        assert!(n_cores() >= 1);
    }
}
