//! Pinning of workers: a spinning thread that is moved between processors loses its caches and its place.

/// Keeps the calling thread on the `n`-th processor of those it may run on, counted cyclically; a refusal only costs speed.
#[cfg(target_os = "linux")]
pub(super) fn pin_to_nth_processor(n: usize) {
    // SAFETY: `cpu_set_t` is a plain bit set, for which all zeros is the empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: `allowed` is a writable set of the given size; 0 means the calling thread.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) } != 0 {
        return;
    }
    // SAFETY: the index is below the size of the set.
    let is_allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &allowed) };
    let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_allowed).collect();
    if cpus.is_empty() {
        return;
    }
    // SAFETY: as for `allowed`.
    let mut chosen: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index came out of a set of the same size.
    unsafe { libc::CPU_SET(cpus[n % cpus.len()], &mut chosen) };
    // SAFETY: `chosen` is a readable set of the given size.
    unsafe { libc::sched_setaffinity(0, size, &raw const chosen) };
}

/// Does nothing where pinning is not offered.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin_to_nth_processor(_n: usize) {}
