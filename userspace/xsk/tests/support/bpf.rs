//! An XDP program written by hand, so that this crate's tests need no BPF toolchain: it puts eight bytes of metadata
//! in front of each packet and redirects it to the socket in the slot of the receive queue.
//!
//! System calls: `kernel/bpf/syscall.c`; the structures are the beginnings of `union bpf_attr`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::net;

/// What the program writes in front of each packet, in the machine's byte order.
pub(crate) const METADATA: u64 = 0x0123_4567_89ab_cdef;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// A program on a device, with its map of sockets. Dropping it detaches.
pub(crate) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    _gap: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl Redirect {
    /// Loads the program and attaches it to the device, in the driver (native) mode.
    pub(crate) fn attach(device: &str) -> Self {
        let map = create(
            BPF_MAP_CREATE,
            &MapCreate {
                kind: BPF_MAP_TYPE_XSKMAP,
                key_size: 4,
                value_size: 4,
                max_entries: 8,
            },
        );
        let instructions = program(map.as_raw_fd());
        let mut log = vec![0u8; 1 << 16];
        let load = ProgLoad {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log: log.as_mut_ptr() as u64,
            kernel_version: 0,
            flags: 1 << 5, // BPF_F_XDP_HAS_FRAGS
        };
        let program = bpf(BPF_PROG_LOAD, &load).unwrap_or_else(|error| {
            panic!("BPF_PROG_LOAD: {error}\n{}", String::from_utf8_lossy(&log));
        });
        // SAFETY: a fresh descriptor.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let link = create(
            BPF_LINK_CREATE,
            &LinkCreate {
                program: program.as_raw_fd() as u32,
                interface: net::index(device),
                attach_type: BPF_XDP,
                flags: 1 << 2, // XDP_FLAGS_DRV_MODE
            },
        );
        Self {
            map,
            _program: program,
            _link: link,
        }
    }

    /// Redirects packets of a queue to a socket.
    pub(crate) fn set(&self, queue: u32, socket: BorrowedFd<'_>) {
        let value = socket.as_raw_fd() as u32;
        let update = MapUpdate {
            map: self.map.as_raw_fd() as u32,
            _gap: 0,
            key: (&raw const queue) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update).expect("the socket goes into the map");
    }
}

/// One instruction: `struct bpf_insn` as a little-endian word.
fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

fn program(map: i32) -> Vec<u64> {
    const LOAD_WIDE: u8 = 0x18;
    const LOAD_WORD: u8 = 0x61;
    const STORE_DOUBLE: u8 = 0x7b;
    const MOVE: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const ADD_NUMBER: u8 = 0x07;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const JUMP_GREATER: u8 = 0x2d;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const PSEUDO_MAP_FD: u8 = 1;
    const XDP_DROP: i32 = 1;
    vec![
        // if (bpf_xdp_adjust_meta(ctx, -8)) return XDP_DROP;
        instruction(MOVE, 6, 1, 0, 0),
        instruction(MOVE_NUMBER, 2, 0, 0, -8),
        instruction(CALL, 0, 0, 0, 54),
        instruction(JUMP_NOT_EQUAL, 0, 0, 14, 0),
        // if (ctx->data_meta + 8 > ctx->data) return XDP_DROP;
        instruction(LOAD_WORD, 2, 6, 8, 0),
        instruction(LOAD_WORD, 3, 6, 0, 0),
        instruction(MOVE, 1, 2, 0, 0),
        instruction(ADD_NUMBER, 1, 0, 0, 8),
        instruction(JUMP_GREATER, 1, 3, 9, 0),
        // *(u64 *)ctx->data_meta = METADATA;
        instruction(LOAD_WIDE, 4, 0, 0, METADATA as i32),
        instruction(0, 0, 0, 0, (METADATA >> 32) as i32),
        instruction(STORE_DOUBLE, 2, 4, 0, 0),
        // return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
        instruction(LOAD_WORD, 2, 6, 16, 0),
        instruction(LOAD_WIDE, 1, PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE_NUMBER, 3, 0, 0, XDP_DROP),
        instruction(CALL, 0, 0, 0, 51),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_DROP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

fn create<T>(command: libc::c_long, attributes: &T) -> OwnedFd {
    let fd = bpf(command, attributes).unwrap_or_else(|error| panic!("bpf({command}): {error}"));
    // SAFETY: a fresh descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads the attributes and what they point to, all of which outlives the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned as i32)
    }
}
