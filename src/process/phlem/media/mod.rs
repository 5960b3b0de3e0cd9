//! The audio of an emulated phone: speech in numbered frames, and what is heard counted exactly. `docs/phlem-media.md` has the
//! format of the numbers and the formula of the MOS.

pub mod check;
mod digits;
pub mod frame;
mod heard;
pub mod ledger;
mod promise;
pub mod recording;
pub mod speech;
mod synthesis;
mod voice;

pub use check::Expected;
pub use check::FrameReport;
pub use check::check_frames;
pub use check::check_samples;
pub use frame::Side;
pub use ledger::Ledger;
pub use ledger::LegEnd;
pub use promise::TOLERANCE;
pub use recording::RecordingReport;
pub use recording::check_recording;
pub use speech::Speech;
pub use voice::PACKET_BYTES;
pub use voice::Settings;
pub use voice::Voice;
