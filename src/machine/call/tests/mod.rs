mod basic;
mod dialogs;
mod ladder;
mod offers;
mod ringing;

pub(crate) use ladder::settings;
