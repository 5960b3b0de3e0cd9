mod basic;
mod chaos;
mod dialogs;
mod ladder;
mod offers;
mod ringing;

pub(crate) use ladder::settings;
