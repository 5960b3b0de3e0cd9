//! Ladders: raw SIP of scripted phones against one call, on a virtual clock.

mod answers;
mod basic;
mod bodies;
mod cancelled;
mod carried;
mod census;
mod changes;
mod chaos;
mod dialogs;
mod families;
mod hints;
mod ladder;
mod offers;
mod ports;
mod reconnect;
mod recording;
mod reliable;
mod ringing;
mod targets;
mod transports;
mod waiting;

pub(crate) use ladder::settings;
