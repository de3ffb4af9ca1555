//! The peer of `bench engine` and `bench veth`: DPDK's IPsec gateway, compiled from what Debian's packages have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::setup::{self, Package};
use crate::{program, workspace::Workspace};

const PACKAGES: &[Package] = &[
    Package {
        name: "dpdk-doc",
        shows_as: "/usr/share/dpdk/examples/ipsec-secgw/ipsec-secgw.c",
        purpose: "the source of what bench engine and bench veth compare with",
    },
    Package {
        name: "libdpdk-dev",
        shows_as: "/usr/include/dpdk/rte_ethdev.h",
        purpose: "compiling it",
    },
    Package {
        name: "librte-crypto-ipsec-mb23",
        shows_as: "/usr/lib/x86_64-linux-gnu/librte_crypto_ipsec_mb.so.23",
        purpose: "its AES-GCM",
    },
    Package {
        name: "librte-net-af-xdp23",
        shows_as: "/usr/lib/x86_64-linux-gnu/librte_net_af_xdp.so.23",
        purpose: "its AF_XDP",
    },
    Package {
        name: "librte-net-pcap23",
        shows_as: "/usr/lib/x86_64-linux-gnu/librte_net_pcap.so.23",
        purpose: "its packets out of a file",
    },
    Package {
        name: "make",
        shows_as: "make",
        purpose: "compiling it",
    },
    Package {
        name: "pkgconf",
        shows_as: "pkg-config",
        purpose: "compiling it",
    },
];

const EXAMPLES: &str = "/usr/share/dpdk/examples";

/// It demands a checksum offload that ports of AF_XDP and of captures do not have: before it compares what it wants with what a port
/// can, it wants no more than that.
const MASKED: &str = "\tlocal_port_conf.rxmode.offloads &= dev_info.rx_offload_capa;\n\
                      \tlocal_port_conf.txmode.offloads &= dev_info.tx_offload_capa;\n";
const BEFORE: &str = "\t/* Check that all required capabilities are supported */\n";

/// The program, compiled if need be.
pub(super) fn ipsec_secgw(workspace: &Workspace) -> Result<PathBuf> {
    setup::install(PACKAGES)?;
    let folder = workspace.target.join("bench/peers/dpdk");
    let peer = folder.join("ipsec-secgw/build/ipsec-secgw-shared");
    let answers = workspace.root.join("bench/peers/secgw_answers.c");
    let sources = [&answers, &Path::new(EXAMPLES).join("ipsec-secgw/ipsec-secgw.c")];
    if sources.iter().all(|source| is_older(source, &peer)) {
        return Ok(peer);
    }
    eprintln!("bench: compiling DPDK's ipsec-secgw");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for part in ["common", "ipsec-secgw"] {
        let from = Path::new(EXAMPLES).join(part);
        program::output(Command::new("cp").arg("-r").arg(from).arg(&folder))?;
    }
    let main = folder.join("ipsec-secgw/ipsec-secgw.c");
    let text = fs::read_to_string(&main).with_context(|| format!("cannot read {}", main.display()))?;
    ensure!(
        text.matches(BEFORE).count() == 1,
        "ipsec-secgw is not that of DPDK 22.11: it does not check its offloads where that one does"
    );
    let text = text.replace(BEFORE, &format!("{MASKED}{BEFORE}"));
    fs::write(&main, text).with_context(|| format!("cannot write {}", main.display()))?;
    let mut make = Command::new("make");
    make.arg("-C").arg(folder.join("ipsec-secgw"));
    // Its makefile has the compiler link what this names, sources as well.
    make.arg(format!("LDFLAGS={} -lpthread", answers.display()));
    program::output(&mut make)?;
    Ok(peer)
}

fn is_older(source: &Path, program: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    matches!((time(source), time(program)), (Ok(source), Ok(program)) if source < program)
}
