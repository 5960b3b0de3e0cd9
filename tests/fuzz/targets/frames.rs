//! Properties of the frames between our own processes, `wire::link` and `wire::control`, over any bytes: a process that
//! crashed may have left anything behind.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tipring::wire::control;
use tipring::wire::control::COMMAND_BYTES;
use tipring::wire::control::Command;
use tipring::wire::control::FromChild;
use tipring::wire::control::Passed;
use tipring::wire::control::ReplyHead;
use tipring::wire::control::ToChild;
use tipring::wire::link;
use tipring::wire::link::FromEngine;
use tipring::wire::link::FromSide;

/// A frame that is read is written and read again as the same bytes; what is not whole consumes nothing.
pub(crate) fn frames(bytes: &[u8]) {
    link_frame::<FromEngine>(bytes);
    link_frame::<FromSide>(bytes);
    control_frame::<ToChild>(bytes);
    control_frame::<FromChild>(bytes);
    control_frame::<Passed>(bytes);
    if let Some(command) = bytes.first_chunk::<COMMAND_BYTES>()
        && let Ok(command) = Command::parse(command)
    {
        let written = command.emit().expect("what was read can be written");
        assert_eq!(Command::parse(&written), Ok(command));
    }
    if let Some(Ok(head)) = bytes.first_chunk().map(|head| ReplyHead::parse(*head)) {
        assert!(ReplyHead::parse(head.emit()).is_ok());
    }
}

fn link_frame<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(Some((frame, used))) = link::parse::<T>(bytes) else { return };
    assert!((5..=bytes.len()).contains(&used));
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    link::emit(&frame, &mut once).expect("what was read can be written");
    let (again, len) = link::parse::<T>(&once).expect("our own frame").expect("it is whole");
    assert_eq!(len, once.len());
    link::emit(&again, &mut twice).expect("what was read can be written");
    assert!(once == twice);
}

fn control_frame<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(frame) = control::parse::<T>(bytes) else { return };
    // Longer than what it was read from only where numbers were written in more bytes than they need: never too large.
    let once = control::emit(&frame).expect("what was read can be written");
    let again = control::parse::<T>(&once).expect("our own frame");
    assert!(control::emit(&again).expect("what was read can be written") == once);
}
