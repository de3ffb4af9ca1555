//! What the kernel says about a BPF link.

use std::fs;
use std::io;

use aya::programs::links::FdLink;

/// The number of the device to which a link holds its program; `None` if that has gone. The kernel tells it beside the link's descriptor
/// (`bpf_link_show_fdinfo`, kernel/bpf/syscall.c), in the device's network namespace, and 0 when the device is gone.
///
/// # Errors
///
/// The system's.
pub(crate) fn device_of(link: &FdLink) -> io::Result<Option<u32>> {
    let id = link.info().map_err(io::Error::other)?.id();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // The folder's own descriptor is among them, and may be gone.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        if field(&text, "link_id:") == Some(id) {
            let index = field(&text, "ifindex:")
                .ok_or_else(|| io::Error::other("the kernel does not tell the link's device"))?;
            return Ok((index != 0).then_some(index));
        }
    }
    Err(io::Error::other(
        "the link's descriptor is not in /proc/self/fdinfo",
    ))
}

fn field(text: &str, name: &str) -> Option<u32> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn what_the_kernel_tells_of_a_link() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t12\nprog_id:\t7\nifindex:\t3\n";
        assert_eq!(field(text, "link_id:"), Some(12));
        assert_eq!(field(text, "ifindex:"), Some(3));
        assert_eq!(field("pos:\t0\n", "link_id:"), None);
    }
}
