mod basic;
mod ladder;

pub(crate) use ladder::settings;
