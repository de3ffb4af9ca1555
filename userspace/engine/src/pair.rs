//! A host edge of two veth devices: what the stack sends into the one comes out of the other, where workers have AF_XDP sockets.
//!
//! Unlike a TUN device it outlives a process that is killed. It does nothing then, for its programs are gone and the one on the outer
//! device sends nothing there; the next start, and `ravelin detach`, know it by its alias and remove it.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use ravelin_xsk::switch_tx_checksums_off;

use crate::host::HostError;
use crate::netlink::Questions;

/// Both ends' MTU, in bytes. What is too long for packet memory the program at the workers' end counts.
const MTU: u32 = 65_535;

/// How often another number is tried when somebody was faster.
const ATTEMPTS: u32 = 16;

/// The two devices; removed when dropped.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Where the stack's packets go in, and opened ones come out.
    pub(crate) stack: String,
    /// Where workers have their sockets.
    pub(crate) workers: String,
}

impl Pair {
    /// Makes the pair of an instance, down.
    pub(crate) fn create(instance: &str, queues: u32) -> Result<Self, HostError> {
        let failed = |what| move |error| HostError::new("rav", what, error);
        let mut questions = Questions::open().map_err(failed("netlink"))?;
        let pair = Self::make(&mut questions, queues).map_err(failed("making a veth pair"))?;
        pair.set_up(&mut questions, instance, queues)?;
        Ok(pair)
    }

    /// Removes the pair that an instance, which no longer runs, has left in this network namespace.
    pub(crate) fn remove_leftovers(instance: &str) -> io::Result<()> {
        remove(&mut Questions::open()?, instance)
    }

    /// Under the first two names that are free.
    fn make(questions: &mut Questions, queues: u32) -> io::Result<Self> {
        let mut taken = Errno::EEXIST.into();
        for _ in 0..ATTEMPTS {
            let mut free = (0..u32::MAX)
                .map(|number| format!("rav{number}"))
                .filter(|name| if_nametoindex(name.as_str()).is_err());
            // There are as many as anybody can want.
            let (Some(stack), Some(workers)) = (free.next(), free.next()) else {
                break;
            };
            let mut message = end(&stack, queues);
            let peer = InfoData::Veth(InfoVeth::Peer(end(&workers, queues)));
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(peer),
            ]));
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            match questions.ask(RouteNetlinkMessage::NewLink(message), flags) {
                Ok(_) => return Ok(Self { stack, workers }),
                Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    fn set_up(&self, questions: &mut Questions, instance: &str, queues: u32) -> Result<(), HostError> {
        let index = |name: &str| {
            if_nametoindex(name).map_err(|error| HostError::new(name, "finding it", error.into()))
        };
        for name in [&self.stack, &self.workers] {
            let mut message = LinkMessage::default();
            message.header.index = index(name)?;
            message.attributes.push(LinkAttribute::IfAlias(alias(instance)));
            questions
                .ask(RouteNetlinkMessage::SetLink(message), 0)
                .map_err(|error| HostError::new(name, "giving it an alias", error))?;
        }
        // There is no card behind the other end that would finish them.
        switch_tx_checksums_off(&self.stack)
            .map_err(|error| HostError::new(&self.stack, "switching checksum offload off", error))?;
        // A virtual device has no queue of its own: what does not fit into the other end's ring would be lost, and no sender told to
        // slow down.
        let mut message = TcMessage::with_index(index(&self.stack)? as i32);
        message.header.parent = TcHandle::ROOT;
        let kind = if queues == 1 { "pfifo_fast" } else { "mq" };
        message.attributes.push(TcAttribute::Kind(kind.to_owned()));
        questions
            .ask(
                RouteNetlinkMessage::NewQueueDiscipline(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|error| HostError::new(&self.stack, "giving it a queue", error))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Its peer goes with it. That it may be gone already is no harm.
        let _ = Questions::open().and_then(|mut questions| {
            let index = if_nametoindex(self.stack.as_str()).map_err(io::Error::from)?;
            delete(&mut questions, index)
        });
    }
}

/// One end of a pair to be made.
fn end(name: &str, queues: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::NumTxQueues(queues),
        LinkAttribute::NumRxQueues(queues),
    ];
    message
}

/// By which both ends are known, whatever they are called.
fn alias(instance: &str) -> String {
    format!("ravelin host edge of {instance}")
}

/// Removes the pair of an instance, if there is one.
fn remove(questions: &mut Questions, instance: &str) -> io::Result<()> {
    let alias = alias(instance);
    for message in questions.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        let RouteNetlinkMessage::NewLink(link) = message else {
            continue;
        };
        if is_end(&link, &alias) {
            delete(questions, link.header.index)?;
        }
    }
    Ok(())
}

/// Whether a device is an end of the pair with this alias: anybody can give an alias to any device.
fn is_end(link: &LinkMessage, alias: &str) -> bool {
    let has = |wanted: &dyn Fn(&LinkAttribute) -> bool| link.attributes.iter().any(wanted);
    has(&|attribute| matches!(attribute, LinkAttribute::IfAlias(text) if text == alias))
        && has(&|attribute| {
            let LinkAttribute::LinkInfo(infos) = attribute else {
                return false;
            };
            infos.contains(&LinkInfo::Kind(InfoKind::Veth))
        })
}

/// Deletes a device; that it went with its peer just now is no error.
fn delete(questions: &mut Questions, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match questions.ask(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.raw_os_error() != Some(Errno::ENODEV as i32) => Err(error),
        _ => Ok(()),
    }
}
