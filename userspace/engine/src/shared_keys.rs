//! Keys that another instance of this machine seals with as well. Whoever begins with a key looks for it in what others have noted; where
//! somebody has taken the notes away meanwhile, two may have begun. As soon as either sees the other it seals no more with that key.

use ravelin_keying::{KeyingError, StaticConnection};

use crate::enforcement::Enforcement;
use crate::engine::Engine;
use crate::sas::Sas;

impl Engine {
    /// Deletes outbound SAs whose keys others may have sealed with since they began here. Their connections are closed.
    ///
    /// # Errors
    ///
    /// [`KeyingError::OthersUnknown`]; the next call looks again.
    pub(crate) fn give_up_shared_keys(&mut self) -> Result<(), KeyingError> {
        let given_up = self.enforcement.give_up_shared_keys()?;
        if !given_up.is_empty() {
            self.nudge();
        }
        for news in given_up {
            eprintln!("ravelin: {news}");
        }
        Ok(())
    }
}

impl Enforcement {
    /// What it says about each that it has deleted.
    fn give_up_shared_keys(&mut self) -> Result<Vec<String>, KeyingError> {
        let shared = self.sas.shared_keys()?;
        let mut given_up = Vec::new();
        for (pair, instance) in shared {
            // What was deleted before may take a moment to go.
            let Some(definition) = self.sas.definition(pair).filter(|_| self.seals_with(pair)) else {
                continue;
            };
            given_up.push(format!(
                "connection `{}`: instance `{instance}` on this machine seals with the key of its outbound SA {:#010x} too ({}): it began while what \
                 is noted in /sys/fs/bpf/ravelin-numbers was gone. One key in two instances repeats nonces, which breaks AES-GCM, so that \
                 SA is deleted, here and there; give the connection new SPIs and new key files on both ends (`ravelin keygen`)",
                definition.name,
                definition.keys.outbound.spi.value(),
                definition.keys.outbound.key_file.display(),
            ));
            self.delete_outbound(pair);
        }
        Ok(given_up)
    }
}

impl Sas {
    /// Pairs with whose outbound key another instance may have sealed, and which instance that is, if others have noted anything new.
    fn shared_keys(&self) -> Result<Vec<(u32, String)>, KeyingError> {
        let Some(folder) = self.folder() else {
            return Ok(Vec::new());
        };
        StaticConnection::held_elsewhere(folder, self.connections())
    }
}
