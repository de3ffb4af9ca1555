//! System calls, one small function each, with the kernel source that answers it.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use libc::{c_int, c_void, socklen_t};

use crate::if_tun::{TUNSETIFF, TUNSETOFFLOAD};
use crate::if_xdp::{
    AF_XDP, ETHTOOL_GCHANNELS, ETHTOOL_STXCSUM, EthtoolChannels, EthtoolValue, SIOCETHTOOL, SOL_XDP,
    XDP_MMAP_OFFSETS, XDP_OPTIONS, XDP_STATISTICS, XDP_UMEM_REG,
};

/// A mapping of this process, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the value only carries address and length.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn new(len: usize, flags: c_int, fd: RawFd, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel picks a range that nothing else uses.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, len }),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and whoever borrowed from it is gone.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Ordinary memory, zeroed (`mm/mmap.c`).
pub(crate) fn map_anonymous(len: usize) -> io::Result<Mapping> {
    Mapping::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
}

/// Memory in reserved huge pages of the default size (`fs/hugetlbfs/inode.c`); `len` is rounded up to 2 MiB.
pub(crate) fn map_huge(len: usize) -> io::Result<Mapping> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    Mapping::new(len.next_multiple_of(2 << 20), flags, -1, 0)
}

/// The values of a BPF array (`array_map_mmap` in `kernel/bpf/arraymap.c`).
pub(crate) fn map_array(map: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
    Mapping::new(len, libc::MAP_SHARED, map.as_raw_fd(), 0)
}

/// One ring of a socket (`xsk_mmap` in `net/xdp/xsk.c`).
pub(crate) fn map_ring(socket: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Mapping> {
    Mapping::new(
        len,
        libc::MAP_SHARED | libc::MAP_POPULATE,
        socket.as_raw_fd(),
        offset,
    )
}

/// Touches every page now (`madvise_populate` in `mm/madvise.c`, Linux 5.14).
pub(crate) fn populate(memory: &Mapping) -> io::Result<()> {
    advise(memory.start, memory.len, libc::MADV_POPULATE_WRITE)
}

/// Asks for transparent huge pages (`hugepage_madvise` in `mm/khugepaged.c`); false if the kernel has none.
pub(crate) fn advise_huge(memory: &Mapping) -> bool {
    advise(memory.start, memory.len, libc::MADV_HUGEPAGE).is_ok()
}

/// Leaves a mapping out of core dumps and of forked children (`madvise_vma_behavior` in `mm/madvise.c`).
pub(crate) fn keep_private(start: NonNull<u8>, len: usize) {
    // Neither can fail on anonymous memory, and packets flow without them as well.
    let _ = advise(start, len, libc::MADV_DONTDUMP);
    let _ = advise(start, len, libc::MADV_DONTFORK);
}

fn advise(start: NonNull<u8>, len: usize, advice: c_int) -> io::Result<()> {
    // SAFETY: none of the advices used here discards or changes contents; what is not mapped is an error.
    check(unsafe { libc::madvise(start.as_ptr().cast(), len, advice) })
}

/// Closes a descriptor when another program is started (`setfd` in `fs/fcntl.c`).
#[cfg(feature = "xsk-rs")]
pub(crate) fn close_on_exec(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })
}

/// A new AF_XDP socket (`xsk_create`).
pub(crate) fn socket() -> io::Result<OwnedFd> {
    new_socket(AF_XDP, libc::SOCK_RAW)
}

/// Registers packet memory (`xdp_umem_create` in `net/xdp/xdp_umem.c`).
pub(crate) fn register_umem(
    socket: BorrowedFd<'_>,
    (addr, len, chunk_size, headroom): (u64, u64, u32, u32),
) -> io::Result<()> {
    let registration = libc::xdp_umem_reg {
        addr,
        len,
        chunk_size,
        headroom,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, SOL_XDP, XDP_UMEM_REG, &registration)
}

/// Sets an option that is a number (`xsk_setsockopt`, `sk_setsockopt`).
pub(crate) fn set_number(socket: BorrowedFd<'_>, level: c_int, option: c_int, number: u32) -> io::Result<()> {
    set_option(socket, level, option, &number)
}

/// Where the ring's fields are in its mapping (`xsk_getsockopt`).
pub(crate) fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: plain integers.
    let (offsets, len) = unsafe { option::<libc::xdp_mmap_offsets>(socket, SOL_XDP, XDP_MMAP_OFFSETS)? };
    // Kernels before 5.4 answer with a shorter structure of another layout.
    if len == size_of::<libc::xdp_mmap_offsets>() {
        Ok(offsets)
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The kernel's counters of a socket (`xsk_getsockopt`, which waits for `xs->mutex`).
pub(crate) fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: plain integers; an older kernel fills the first three and the rest stay zero.
    unsafe { option(socket, SOL_XDP, XDP_STATISTICS) }.map(|(statistics, _)| statistics)
}

/// The flags of a bound socket (`xsk_getsockopt`).
pub(crate) fn options(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: plain integers.
    unsafe { option::<libc::xdp_options>(socket, SOL_XDP, XDP_OPTIONS) }.map(|(options, _)| options.flags)
}

/// Binds a socket to one queue of a device (`xsk_bind`).
pub(crate) fn bind(
    socket: BorrowedFd<'_>,
    interface: u32,
    queue: u32,
    flags: u16,
    shared_with: u32,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared_with,
    };
    let len = size_of::<libc::sockaddr_xdp>() as socklen_t;
    // SAFETY: `address` is a whole sockaddr_xdp of `len` bytes.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })
}

/// Has the kernel send what is in the transmit ring (`xsk_sendmsg`).
pub(crate) fn wake_tx(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer, no address.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null(),
            0,
        )
    };
    check(sent as c_int)
}

/// Has the driver look at the fill ring (`xsk_recvmsg`); tells whether the socket still has its device.
pub(crate) fn wake_rx(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer, no address.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    check(received as c_int)
}

/// Number of the interface with this name in the thread's network namespace (`dev_ifname` in `net/core/dev_ioctl.c`).
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: a C string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Numbers of channels of a device (`ethtool_get_channels` in `net/ethtool/ioctl.c`).
pub(crate) fn channels(name: &str) -> io::Result<EthtoolChannels> {
    let socket = new_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut channels = EthtoolChannels {
        cmd: ETHTOOL_GCHANNELS,
        ..EthtoolChannels::default()
    };
    let mut request = named_request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: an ifreq whose data points to the structure that this command fills; both live through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) })?;
    Ok(channels)
}

/// Switches the checksums that a device computes on or off (`ethtool_set_one_feature` in `net/ethtool/ioctl.c`).
pub(crate) fn set_tx_checksums(name: &str, on: bool) -> io::Result<()> {
    let socket = new_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut value = EthtoolValue {
        cmd: ETHTOOL_STXCSUM,
        data: on.into(),
    };
    let mut request = named_request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: an ifreq whose data points to the structure that this command reads; both live through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) })
}

/// Makes a TUN device, or opens a further queue of it (`tun_set_iff` in `drivers/net/tun.c`); its name.
pub(crate) fn attach_tun(file: BorrowedFd<'_>, name: &str, flags: i16) -> io::Result<String> {
    let mut request = named_request(name)?;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: an ifreq, which the kernel reads and writes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    let name = request.ifr_name.iter().map(|byte| *byte as u8);
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What the stack may leave to the reader of a TUN device (`set_offload` in `drivers/net/tun.c`).
pub(crate) fn set_tun_offload(file: BorrowedFd<'_>, offloads: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, offloads) })
}

/// A counter to wait for (`fs/eventfd.c`), non-blocking.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    check(fd)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of what is pinned there (`bpf_obj_get` in `kernel/bpf/syscall.c`).
pub(crate) fn pinned(path: &CStr) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_OBJ_GET, &ObjectAttr::new(path, 0))?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a link's program off its device (`link_detach` in `kernel/bpf/syscall.c`).
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &link.as_raw_fd()).map(drop)
}

/// Puts another program in the place of a link's (`link_update` in `kernel/bpf/syscall.c`).
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // link_fd, new_prog_fd, flags, old_prog_fd.
    let attr: [RawFd; 4] = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    bpf(BPF_LINK_UPDATE, &attr).map(drop)
}

/// Gives something of BPF's a name in a BPF filesystem (`bpf_obj_pin` in `kernel/bpf/syscall.c`).
pub(crate) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    bpf(BPF_OBJ_PIN, &ObjectAttr::new(path, object.as_raw_fd())).map(drop)
}

/// The id of the program that is asked first about what leaves a device (`tcx_prog_query` in `kernel/bpf/tcx.c`).
pub(crate) fn first_tcx_egress(device: u32) -> io::Result<Option<u32>> {
    let mut first = 0_u32;
    let mut attr = QueryAttr {
        device,
        attach_type: BPF_TCX_EGRESS,
        programs: (&raw mut first).expose_provenance() as u64,
        room: 1,
        ..QueryAttr::default()
    };
    let size = size_of::<QueryAttr>();
    // SAFETY: the kernel reads and writes no more than the structure, and writes at most one id to where it points.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size) };
    match check(answer as c_int) {
        // There are more.
        Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => Err(error),
        _ => Ok((first != 0).then_some(first)),
    }
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` reads and writes.
#[derive(Default)]
#[repr(C)]
struct QueryAttr {
    device: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    room: u32,
    _gap: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` and `BPF_OBJ_GET` read.
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    object: RawFd,
    flags: u32,
}

impl ObjectAttr {
    fn new(path: &CStr, object: RawFd) -> Self {
        Self {
            pathname: path.as_ptr().expose_provenance() as u64,
            object,
            flags: 0,
        }
    }
}

/// `enum bpf_cmd` of `linux/bpf.h`.
const BPF_OBJ_PIN: c_int = 6;
const BPF_OBJ_GET: c_int = 7;
const BPF_PROG_QUERY: c_int = 16;
const BPF_LINK_UPDATE: c_int = 29;
const BPF_LINK_DETACH: c_int = 34;

/// `enum bpf_attach_type` of `linux/bpf.h`.
const BPF_TCX_EGRESS: u32 = 47;

fn bpf<T>(command: c_int, attr: &T) -> io::Result<c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, which the commands above do not write to; the path that some of them
    // name lives as long as their callers' borrow.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attr), size_of::<T>()) };
    let answer = answer as c_int;
    check(answer)?;
    Ok(answer)
}

fn named_request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: integers, and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// What setsockopt or bind said when the kernel lacks an option.
pub(crate) fn is_errno(error: &io::Error, errno: c_int) -> bool {
    error.raw_os_error() == Some(errno)
}

fn new_socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option<T: Copy>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, or fewer.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            len,
        )
    })
}

/// Reads an option: the value and how many bytes of it the kernel wrote; the others are zero.
///
/// # Safety
/// Any bytes are a valid `T`.
unsafe fn option<T: Copy>(socket: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<(T, usize)> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, and the number it wrote to `len`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    })?;
    // SAFETY: every byte is initialised, by zero or by the kernel, and any bytes will do.
    Ok((unsafe { value.assume_init() }, len as usize))
}

fn check(returned: c_int) -> io::Result<()> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
