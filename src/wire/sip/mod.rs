//! SIP messages: the only parser and writer of the engine (RFC 3261 and its extensions). Bytes to views and back, no decisions.
//!
//! [`scan`] reads a message once, without allocating, into a table of offsets ([`Message`]), with what everybody asks of one: Via, From, To,
//! CSeq, Request-URI. Views ([`Uri`], [`NameAddr`], [`Via`] …) read other values when asked and borrow from the same bytes. [`write`] appends messages to a buffer. [`Framer`] finds messages in a stream.
//! Unknown methods, schemes and headers are opaque bytes. Nothing here panics on any input.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod bounds;
pub mod check;
pub mod credentials;
pub mod framer;
pub mod header;
pub mod message;
pub mod method;
pub mod name_addr;
pub mod params;
pub mod scan;
pub mod status;
pub mod subscriber;
mod syntax;
pub mod uri;
pub mod value;
pub mod via;
pub mod write;

#[cfg(test)]
mod tests;

pub use check::Fault;
pub use credentials::Challenge;
pub use credentials::Credentials;
pub use framer::Frame;
pub use framer::Framer;
pub use header::HeaderId;
pub use message::Field;
pub use message::Message;
pub use message::Request;
pub use message::Response;
pub use message::StartLine;
pub use method::Method;
pub use name_addr::Contact;
pub use name_addr::NameAddr;
pub use params::Param;
pub use params::Params;
pub use scan::DropReason;
pub use scan::Scan;
pub use scan::scan;
pub use status::Status;
pub use subscriber::Subscriber;
pub use uri::Host;
pub use uri::SipUri;
pub use uri::TelUri;
pub use uri::Uri;
pub use value::CSeq;
pub use value::RAck;
pub use value::ReasonValue;
pub use value::Refresher;
pub use value::SessionExpires;
pub use via::Via;
pub use write::Writer;

/// The way a message came, as far as its reading depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Transport {
    /// Messages are cut out of a stream by their Content-Length (RFC 3261 §18.3). WebSocket frames its messages itself (RFC 7118).
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// The transport of a Via (RFC 3261 §20.42, RFC 7118 §5.2).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// The value of a URI's `transport` parameter (RFC 3261 §19.1.1, RFC 7118 §5.2).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// A value that is not what its header demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("not a URI")]
    Uri,
    #[error("not a host name or address")]
    Host,
    #[error("not a name or address with parameters")]
    NameAddr,
    #[error("not a Via value")]
    Via,
    #[error("not a number and method")]
    CSeq,
    #[error("not credentials or a challenge")]
    Credentials,
    #[error("not the value of this header")]
    Value,
}
