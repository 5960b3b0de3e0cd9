//! Ladders: raw SIP of scripted phones against one call, on a virtual clock.

mod basic;
mod chaos;
mod dialogs;
mod ladder;
mod offers;
mod ringing;

pub(crate) use ladder::settings;
