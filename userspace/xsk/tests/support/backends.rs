//! The backends, and what each of them can do.

use ravelin_xsk::{Backend, Rings};

/// A backend, and where they differ.
pub(crate) trait Tested: Backend {
    /// The first socket of a memory may go, or lose its device, and another be opened.
    const MEMORY_OUTLIVES_ITS_FIRST_SOCKET: bool;
    /// Frames that a removed device had not taken return to the free list.
    const UNSENT_FRAMES_COME_BACK: bool;
    /// A packet may be sent from wherever it stands in its chunk.
    const SENDS_FROM_ANYWHERE: bool;
    /// Making the memory, rather than opening a socket, is what not everybody may do.
    const MEMORY_WANTS_PRIVILEGE: bool;
}

impl Tested for Rings {
    const MEMORY_OUTLIVES_ITS_FIRST_SOCKET: bool = true;
    const UNSENT_FRAMES_COME_BACK: bool = true;
    const SENDS_FROM_ANYWHERE: bool = true;
    const MEMORY_WANTS_PRIVILEGE: bool = false;
}

#[cfg(feature = "xsk-rs")]
impl Tested for ravelin_xsk::XskRs {
    const MEMORY_OUTLIVES_ITS_FIRST_SOCKET: bool = false;
    const UNSENT_FRAMES_COME_BACK: bool = false;
    const SENDS_FROM_ANYWHERE: bool = false;
    const MEMORY_WANTS_PRIVILEGE: bool = true;
}

/// Makes a test of each of these functions for each backend.
macro_rules! with_every_backend {
    ($($test:ident),+ $(,)?) => {
        mod rings {
            $(
                #[test]
                fn $test() {
                    super::$test::<ravelin_xsk::Rings>();
                }
            )+
        }

        #[cfg(feature = "xsk-rs")]
        mod xsk_rs {
            $(
                #[test]
                fn $test() {
                    super::$test::<ravelin_xsk::XskRs>();
                }
            )+
        }
    };
}

pub(crate) use with_every_backend;
