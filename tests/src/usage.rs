//! What a process has, by what the kernel says.

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub resident_kib: usize,
    pub address_kib: usize,
    pub mappings: usize,
    pub descriptors: usize,
}

impl Usage {
    /// What this process has now.
    pub fn now() -> Usage {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.expect("a line of it").parse().expect("a number")
        };
        Usage {
            resident_kib: kib("VmRSS:"),
            address_kib: kib("VmSize:"),
            mappings: crate::mapping_count(),
            descriptors: std::fs::read_dir("/proc/self/fd")
                .expect("a folder of it")
                .count(),
        }
    }
}
