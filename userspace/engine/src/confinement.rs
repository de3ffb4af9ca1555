//! What this process gives up, so that a mistake in it is worth less to an attacker.
//!
//! - **Capabilities** (capabilities(7)): at first all that starting does not need; afterwards all that serving does not need.
//!   Workers, which read what comes from the wire, keep none but `CAP_IPC_LOCK`: where memory is locked and there is a
//!   limit to that, the next allocation would fail without it.
//! - **Landlock** (landlock(7)): files can be changed only where state, control socket and pins are, and no program be started.
//! - **seccomp** (seccomp(2)): system calls that no part of this program makes, and that attacks like to make, fail.
//!
//! Everything is per thread and inherited, so [`Confinement::begin`] comes before the first thread.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, path_beneath_rules,
};
use nix::libc;
use ravelin_keying::make_folder;
use seccompiler::{SeccompAction, SeccompFilter};
use thiserror::Error;

/// To start: BPF programs that are verified with pointers in mind, `AF_XDP` sockets, devices, the BPF filesystem if nobody
/// has mounted it, and locked memory.
const START: [Capability; 7] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_DAC_READ_SEARCH,
];

/// To serve: new maps for new policies, neighbours, and policies in anybody's folder.
const SERVE: [Capability; 4] = [
    Capability::CAP_IPC_LOCK,
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Nothing here does any of this: other programs, other processes, other namespaces, other kernels.
const REFUSED: [libc::c_long; 46] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// Something that this process cannot give up.
#[derive(Debug, Error)]
pub enum ConfinementError {
    /// A capability stays.
    #[error("capabilities cannot be given up: {0}; `--no-confinement` goes without")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Landlock is there and does not take the rules.
    #[error("Landlock: {0}; `--no-confinement` goes without")]
    Landlock(#[from] landlock::RulesetError),
    /// seccomp is there and does not take the filter.
    #[error("seccomp: {0}; `--no-confinement` goes without")]
    Seccomp(seccompiler::Error),
}

/// A process that gives up what it does not need.
#[derive(Debug)]
pub struct Confinement {
    given_up: Vec<&'static str>,
    /// What this kernel cannot do.
    missing: Vec<&'static str>,
}

impl Confinement {
    /// Before there is a second thread: keeps what [`Engine::start`](crate::Engine::start) needs, to change files only in the folder `state`,
    /// which is made if it is not there, and to make and remove the socket `control` in its folder.
    ///
    /// # Errors
    ///
    /// [`ConfinementError`]. Kernels without Landlock are none: see [`Confinement::finish`].
    pub fn begin(state: &Path, control: &Path) -> Result<Self, ConfinementError> {
        let mut confinement = Self {
            given_up: vec!["capabilities"],
            missing: Vec::new(),
        };
        // The last mount of this process.
        let _ = crate::bpffs::mount();
        let landlocked = restrict_files(state, control)?;
        confinement.note("Landlock", landlocked);
        keep(&START)?;
        Ok(confinement)
    }

    /// After everything has started: keeps what serving needs. What was given up, and what this kernel has not, in words.
    ///
    /// # Errors
    ///
    /// [`ConfinementError`].
    pub fn finish(mut self) -> Result<String, ConfinementError> {
        keep(&SERVE)?;
        let filtered = refuse_calls()?;
        self.note("seccomp", filtered);
        let given_up = self.given_up.join(", ");
        Ok(match self.missing.as_slice() {
            [] => given_up,
            missing => format!("{given_up}; this kernel has no {}", missing.join(", no ")),
        })
    }

    fn note(&mut self, what: &'static str, done: bool) {
        let list = if done {
            &mut self.given_up
        } else {
            &mut self.missing
        };
        list.push(what);
    }
}

/// What workers need: memory.
pub(crate) const WORKER: [Capability; 1] = [Capability::CAP_IPC_LOCK];

/// What the resolver needs: to have the kernel ask for neighbours.
pub(crate) const RESOLVER: [Capability; 2] = [Capability::CAP_IPC_LOCK, Capability::CAP_NET_ADMIN];

/// Has the calling thread, one of those that the engine starts, go without all capabilities but those in `kept`.
pub(crate) fn keep_only(kept: &[Capability]) {
    // The kernel refuses nobody to have less. With `--no-confinement` this holds as well.
    let _ = keep(kept);
}

/// Gives up all capabilities but those in `kept`, for the calling thread and those that it starts.
fn keep(kept: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = kept.iter().copied().collect();
    // To narrow the bounding set is itself a matter of a capability, which a service may not have.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    // Effective ones must be permitted ones all the time.
    for set in [CapSet::Effective, CapSet::Permitted] {
        let now = caps::read(None, set)?;
        let then = now.intersection(&kept).copied().collect();
        caps::set(None, set, &then)?;
    }
    Ok(())
}

/// Whether Landlock is in force.
fn restrict_files(state: &Path, control: &Path) -> Result<bool, ConfinementError> {
    let changes = AccessFs::from_write(ABI::V5) | AccessFs::Execute;
    // What cannot be made is told by whoever needs it.
    let made = folder_of(state).and_then(|_| make_folder(state, 0o700));
    let state = made.map(|()| state.to_owned()).ok();
    let places = state
        .into_iter()
        .chain(["/sys/fs/bpf", "/proc/sys/net", "/dev/net/tun"].map(PathBuf::from));
    let sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
    // A BPF filesystem that is mounted later is another one, and lies beneath the folder above it only.
    let pins = AccessFs::MakeDir | AccessFs::MakeReg | AccessFs::RemoveDir | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(changes)?
        .create()?
        .add_rules(path_beneath_rules(places, AccessFs::from_write(ABI::V5)))?
        .add_rules(path_beneath_rules(folder_of(control).ok(), sockets))?
        .add_rules(path_beneath_rules(["/sys/fs"], pins))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// The folder that `path` is in, made if it is not there.
fn folder_of(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let folder = path.parent().unwrap_or(&path);
    make_folder(folder, 0o755)?;
    Ok(folder.to_owned())
}

/// Has all threads go without what is refused; whether seccomp is there.
fn refuse_calls() -> Result<bool, ConfinementError> {
    let Ok(architecture) = std::env::consts::ARCH.try_into() else {
        return Ok(false);
    };
    let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture);
    let program = filter.and_then(TryInto::try_into);
    let program: seccompiler::BpfProgram =
        program.map_err(|error| ConfinementError::Seccomp(error.into()))?;
    match seccompiler::apply_filter_all_threads(&program) {
        Ok(()) => Ok(true),
        Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error))
            if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
        {
            Ok(false)
        }
        Err(error) => Err(ConfinementError::Seccomp(error)),
    }
}
