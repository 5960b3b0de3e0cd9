//! Copies of SIP messages and RTCP reports for a capture server, as HEP3 datagrams. What it cannot take at once is lost and counted.

use std::io;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;

use crate::process::config::Hep;
use crate::process::engine::message::Capture;
use crate::wire::hep;

#[derive(Debug)]
pub(super) struct Mirror {
    socket: UdpSocket,
    agent: hep::Agent,
    buffer: Vec<u8>,
    report: Vec<u8>,
    pub(super) lost: u64,
}

impl Mirror {
    /// `None` where no server is configured.
    pub(super) fn new(hep: &Hep) -> io::Result<Option<Self>> {
        let Some(server) = hep.address else { return Ok(None) };
        let local: SocketAddr =
            if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(local)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let agent = hep::Agent { id: hep.capture_id, ..hep::Agent::default() };
        Ok(Some(Self { socket, agent, buffer: Vec::new(), report: Vec::new(), lost: 0 }))
    }

    pub(super) fn send(&mut self, capture: &Capture) {
        let call = capture.call.map(|call| call.to_string()).unwrap_or_default();
        self.buffer.clear();
        self.report.clear();
        // What is neither a sender's nor a receiver's report has nothing that a capture server shows.
        if capture.content == hep::Content::Rtcp && !hep::emit_rtcp(&capture.bytes, &mut self.report) {
            return;
        }
        let payload = if capture.content == hep::Content::Rtcp { &self.report } else { &capture.bytes };
        let copy = hep::Capture {
            source: capture.source,
            destination: capture.destination,
            transport: if capture.is_reliable { hep::Transport::Tcp } else { hep::Transport::Udp },
            at: capture.at,
            content: capture.content,
            correlation: call.as_bytes(),
            payload,
        };
        hep::emit(&self.agent, &copy, &mut self.buffer);
        if self.socket.send(&self.buffer).is_err() {
            self.lost += 1;
        }
    }
}
