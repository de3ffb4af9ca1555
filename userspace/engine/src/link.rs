//! What the kernel says about a BPF link.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use ravelin_xsk::BpfLink;

/// The number of the device to which a link holds its program; `None` if that has gone. The kernel tells it beside the link's descriptor
/// (`bpf_link_show_fdinfo`, kernel/bpf/syscall.c), in the device's network namespace, and 0 when the device is gone.
///
/// # Errors
///
/// The system's.
pub(crate) fn device_of(link: &BpfLink) -> io::Result<Option<u32>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd()))?;
    let index = field(&text, "ifindex:")
        .ok_or_else(|| io::Error::other("the kernel does not tell the link's device"))?;
    Ok((index != 0).then_some(index))
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
        assert_eq!(field(text, "ifindex:"), Some(3));
        assert_eq!(field("pos:\t0\n", "link_id:"), None);
    }
}
