//! The way a SIP message came, and the way its answer goes: RFC 5626's flow, for UDP and connections alike.
//!
//! Over UDP an answer, and requests to whoever sent, may go to another port of the same address; never to another address.

use std::fmt;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Host;
use crate::wire::sip::Message;
use crate::wire::sip::Transport;
use crate::wire::sip::Uri;

/// RFC 3261 §18.2.2, §19.1.2: "the default port is 5060".
const PORT_DEFAULT: u16 = 5060;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Index into [`Settings::listeners`](crate::machine::settings::Settings::listeners): the local address.
    pub listener: u8,
    /// The source address seen.
    pub peer: SocketAddr,
    /// `None`: UDP.
    pub connection: Option<Connection>,
}

/// A TCP connection and the shard that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Connection {
    pub shard: ShardId,
    pub handle: Handle,
}

impl Flow {
    pub fn udp(listener: u8, peer: SocketAddr) -> Self {
        Self { listener, peer, connection: None }
    }

    /// Retransmission is the transport's business (RFC 3261 §17: "reliable transport").
    pub fn is_reliable(&self) -> bool {
        self.connection.is_some()
    }

    /// The way of the answer to a request that came so. RFC 3261 §18.2.2: "the response MUST be sent to […] the port indicated in
    /// the "sent-by" value": for a phone without NAT that sends from one port and listens on another. With `rport` (RFC 3581) or
    /// from behind a NAT it is the port that the request came from.
    pub fn answer(self, request: &Message<'_>) -> Self {
        match request.top_via() {
            Ok(via) if !via.wants_rport() => self.with_port(via.host, via.port),
            _ => self,
        }
    }

    /// The way of requests to a contact of whoever sent `request`, which came over `self`: like answers, but to the Contact's port. A
    /// request that came through a proxy has more than one Via; that proxy's way to the phone is its own.
    pub fn requests(self, request: &Message<'_>, contact: Uri<'_>) -> Self {
        let answer = self.answer(request);
        let Ok(via) = request.top_via() else { return answer };
        let is_direct = request.values(HeaderId::Via).nth(1).is_none();
        match contact.sip() {
            Some(contact) if is_direct && !via.wants_rport() && self.is_from(via.host) => {
                answer.with_port(contact.host, contact.port)
            }
            _ => answer,
        }
    }

    /// Another port of the peer, if that is `host`; 0 is none.
    fn with_port(mut self, host: Host<'_>, port: Option<u16>) -> Self {
        let port = port.unwrap_or(PORT_DEFAULT);
        if !self.is_reliable() && port != 0 && self.is_from(host) {
            self.peer.set_port(port);
        }
        self
    }

    /// There is no NAT between: the address that it gives itself is the one that we see.
    fn is_from(&self, host: Host<'_>) -> bool {
        host.ip().is_some_and(|ip| ip.to_canonical() == self.peer.ip().to_canonical())
    }

    pub fn transport(&self) -> Transport {
        if self.is_reliable() { Transport::Tcp } else { Transport::Udp }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport().word(), self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Handle;
    use crate::machine::fixture::message;

    fn request(vias: &str) -> String {
        format!(
            "OPTIONS sip:h SIP/2.0\r\nVia: {vias}\r\nMax-Forwards: 1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:h>\r\nCall-ID: c\r\n\
             CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )
    }

    fn udp(peer: &str) -> Flow {
        Flow::udp(0, peer.parse().unwrap())
    }

    #[test]
    fn an_answer_goes_to_the_sent_by_port_of_a_sender_without_nat() {
        for (peer, via, port) in [
            ("192.0.2.1:40000", "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1", 5070),
            ("192.0.2.1:40000", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", 5060),
            ("192.0.2.1:40000", "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport", 40000),
            ("192.0.2.1:40000", "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport=5070", 40000),
            ("192.0.2.1:40000", "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1", 40000),
            ("192.0.2.1:40000", "SIP/2.0/UDP phone.test:5070;branch=z9hG4bK1", 40000),
            // What the sender says of `received` and `maddr` leads to nobody else.
            ("192.0.2.1:40000", "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1;received=192.0.2.1", 40000),
            ("192.0.2.1:40000", "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;maddr=192.0.2.9;received=192.0.2.9", 5070),
            ("192.0.2.1:40000", "SIP/2.0/UDP 192.0.2.1:0;branch=z9hG4bK1", 40000),
            ("[2001:db8::1]:40000", "SIP/2.0/UDP [2001:DB8:0:0::1]:5070;branch=z9hG4bK1", 5070),
            ("[::ffff:192.0.2.1]:40000", "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1", 5070),
            ("192.0.2.1:40000", "SIP/2.0/UDP [::ffff:192.0.2.1]:5070;branch=z9hG4bK1", 5070),
        ] {
            let (text, flow) = (request(via), udp(peer));
            let answer = flow.answer(&message(&text));
            assert_eq!((answer.peer.ip(), answer.peer.port()), (flow.peer.ip(), port), "{peer} {via}");
            assert_eq!(answer.answer(&message(&text)), answer);
        }
        let text = request("SIP/2.0/TCP 192.0.2.1:5070;branch=z9hG4bK1");
        let connection = Some(Connection { shard: ShardId(0), handle: Handle { slot: 0, generation: 0 } });
        let tcp = Flow { connection, ..udp("192.0.2.1:40000") };
        assert_eq!(tcp.answer(&message(&text)), tcp);
    }

    #[test]
    fn requests_go_to_the_port_of_the_contact_likewise() {
        let direct = "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1";
        let proxied = "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1, SIP/2.0/UDP 192.0.2.1:5090;branch=z9hG4bK2";
        for (vias, contact, port) in [
            (direct, "sip:a@192.0.2.1:5080", 5080),
            (direct, "sip:a@192.0.2.1", 5060),
            (direct, "sip:a@192.0.2.9:5080", 5070),
            (direct, "sip:a@phone.test:5080", 5070),
            (direct, "tel:+1", 5070),
            (proxied, "sip:a@192.0.2.1:5090", 5070),
            ("SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport", "sip:a@192.0.2.1:5080", 40000),
            ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1", "sip:a@192.0.2.1:5080", 40000),
        ] {
            let text = request(vias);
            let uri = Uri::parse(contact.as_bytes()).unwrap();
            let flow = udp("192.0.2.1:40000").requests(&message(&text), uri);
            assert_eq!(flow, udp(&format!("192.0.2.1:{port}")), "{vias} {contact}");
        }
    }
}
