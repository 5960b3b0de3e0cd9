//! The side process from its first step to its last: it does what the keeper says.

use crate::process::channel::Wait;
use crate::process::child;
use crate::process::child::Begun;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::log;
use crate::process::plan::SideSettings;
use crate::wire::control::FromChild;
use crate::wire::control::ToChild;

/// Returns the exit code.
pub fn run() -> u8 {
    let begun = match child::begin() {
        Ok(begun) => begun,
        Err(failure) => return child::fail_alone(&failure),
    };
    match serve(&begun) {
        Ok(()) => 0,
        Err(failure) => child::fail(&begun.keeper, &failure),
    }
}

fn serve(begun: &Begun) -> Result<(), Failure> {
    let lost = |error: std::io::Error| Failure::from_io("the keeper", &error);
    let settings: SideSettings = postcard::from_bytes(&begun.start.settings)
        .map_err(|_| Failure::new(exit::OTHER, "the keeper passed no settings"))?;
    log::start(&settings.log, &begun.start.node, "side").map_err(lost)?;
    begun.keeper.send(&FromChild::Ready).map_err(lost)?;
    loop {
        match begun.keeper.receive::<ToChild>(Wait::Yes).map_err(lost)? {
            Some((ToChild::Stop { .. }, _)) => {
                log::flush();
                return Ok(());
            }
            Some((ToChild::ReopenLogs, _)) => log::reopen(),
            Some(_) => {}
            None => return Err(Failure::new(exit::OTHER, "the keeper is gone")),
        }
    }
}
