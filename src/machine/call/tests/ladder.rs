//! Scripted phones around one call on a virtual clock. The call is restored from its bytes before every step.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::hash::HashKey;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::machine::call::Call;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::CallerIdentity;
use crate::machine::call::input::Context;
use crate::machine::call::input::Destination;
use crate::machine::call::input::Invite;
use crate::machine::call::input::SymmetricMedia;
use crate::machine::call::recording::Wanted;
use crate::machine::flow::Flow;
use crate::machine::locator::Locator;
use crate::machine::media::bounds::MediaBounds;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::command::Notice;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::machine::media::command::TapeSwitch;
use crate::machine::media::ports::Pair;
use crate::machine::media::ports::PortPool;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::outbox::Target;
use crate::machine::settings::Interface;
use crate::machine::settings::Listener;
use crate::machine::settings::MediaAddress;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::RecordingSettings;
use crate::machine::settings::RegistrationBounds;
use crate::machine::settings::Secrets;
use crate::machine::settings::Settings;
use crate::wire::event::Body;
use crate::wire::event::Cause;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::NameAddr;
use crate::wire::sip::Scan;
use crate::wire::sip::StartLine;
use crate::wire::sip::Transport;
use crate::wire::sip::scan;
use crate::wire::tape::Mark;
use crate::wire::tape::record::Untaped;

pub(crate) const MEDIA: &str = "198.51.100.1";
pub(super) const MEDIA_V6: &str = "2001:db8::1";

pub(crate) fn settings() -> Settings {
    let address = |text: &str| {
        let ip = text.parse().unwrap();
        Some(MediaAddress { local: ip, advertise: ip })
    };
    let listener =
        |reliable| Listener { reliable, local: "198.51.100.1:5060".parse().unwrap(), advertise: None, interface: 0 };
    let listener_v6 =
        Listener { reliable: false, local: "[2001:db8::1]:5060".parse().unwrap(), advertise: None, interface: 0 };
    Settings {
        node: "n".to_owned(),
        boot: 1,
        shards: 1,
        secrets: Secrets { hash: HashKey([7; 16]), nonce: [0; 32] },
        listeners: vec![listener(false), listener(true), listener_v6],
        trusted: Vec::new(),
        path: PathPolicy::default(),
        digest: Vec::new(),
        interfaces: vec![Interface {
            name: "default".to_owned(),
            ipv4: address(MEDIA),
            ipv6: address(MEDIA_V6),
            from_anywhere: false,
        }],
        registration: RegistrationBounds::default(),
        limits: crate::machine::settings::Limits::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(30),
        media: MediaBounds { loopback: true, ..MediaBounds::default() },
        recording: RecordingSettings { early: false, start_code: "*1".to_owned(), pause_code: "*2".to_owned() },
    }
}

/// A message that the call sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) flow: Flow,
    pub(super) text: String,
}

pub(super) struct Ladder {
    pub(super) call: Call,
    settings: Settings,
    random: Random,
    pub(super) pool: PortPool,
    pub(super) now: Instant,
    sent: VecDeque<Sent>,
    pub(super) events: Vec<(Option<u8>, Body)>,
    pub(super) media: Vec<MediaCommand>,
    pub(super) marks: Vec<Mark>,
    pub(super) owners: BTreeMap<PairId, Owner>,
    reports: VecDeque<MediaNotice>,
    cseqs: BTreeMap<(String, String), u32>,
    /// Users whose bindings were asked for.
    pub(super) located: Vec<String>,
    /// Every request sent; what is sent again must be the same.
    requests: BTreeSet<String>,
    /// Says which run it was when a check fails.
    pub(super) name: String,
}

const HANDLE: Handle = Handle { slot: 5, generation: 9 };

pub(super) fn flow(host: u8) -> Flow {
    Flow::udp(0, SocketAddr::from(([192, 0, 2, host], 5060)))
}

pub(super) fn target(host: u8) -> Target {
    Target {
        aor: Aor { tenant: "acme".to_owned(), user: "1002".to_owned() },
        contact: format!("sip:1002@192.0.2.{host}:5060;ob"),
        flow: flow(host),
        path: Vec::new(),
        q: 1000,
        instance: String::new(),
    }
}

pub(super) fn sdp(host: u8, more: &str) -> String {
    format!(
        "v=0\r\no=x 1 1 IN IP4 192.0.2.{host}\r\ns=-\r\nc=IN IP4 192.0.2.{host}\r\nt=0 0\r\n\
         m=audio 40000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n{more}"
    )
}

impl Ladder {
    /// Alice (host 10) sends `invite`; phones at `hosts` ring.
    pub(super) fn new(invite: &str, hosts: &[u8]) -> Self {
        Self::with_ports(invite, hosts, 64)
    }

    pub(super) fn with_ports(invite: &str, hosts: &[u8], ports: u16) -> Self {
        let destination = Destination::Phones(vec![Aor { tenant: "acme".to_owned(), user: "1002".to_owned() }]);
        let mut ladder = Self::begin(invite, destination, ports);
        ladder.step(CallInput::Targets(hosts.iter().map(|host| target(*host)).collect()));
        ladder
    }

    /// The caller and the only phone at these ends of flows.
    pub(super) fn between(invite: &str, caller: Flow, callee: Flow) -> Self {
        let destination = Destination::Phones(vec![Aor { tenant: "acme".to_owned(), user: "1002".to_owned() }]);
        let mut ladder = Self::begin_from(invite, caller, destination, 8);
        let transport = if callee.is_reliable() { ";transport=tcp" } else { "" };
        let contact = format!("sip:1002@{}{transport}", callee.peer);
        ladder.step(CallInput::Targets(vec![Target { contact, flow: callee, ..target(20) }]));
        ladder
    }

    pub(super) fn begin(invite: &str, destination: Destination, ports: u16) -> Self {
        Self::begin_from(invite, flow(10), destination, ports)
    }

    /// The same, where the directory wants it recorded.
    pub(super) fn recorded(invite: &str, hosts: &[u8], record: Wanted) -> Self {
        let destination = Destination::Phones(vec![Aor { tenant: "acme".to_owned(), user: "1002".to_owned() }]);
        let mut ladder = Self::begin_with(invite, flow(10), destination, 64, record);
        ladder.step(CallInput::Targets(hosts.iter().map(|host| target(*host)).collect()));
        ladder
    }

    fn begin_from(invite: &str, from: Flow, destination: Destination, ports: u16) -> Self {
        Self::begin_with(invite, from, destination, ports, Wanted::default())
    }

    fn begin_with(invite: &str, from: Flow, destination: Destination, ports: u16, record: Wanted) -> Self {
        Self::begin_under(settings(), invite, from, destination, ports, record)
    }

    /// Alice (10) calls; the phone of Bob (20) rings. The node has no media address of IPv6.
    pub(super) fn of_ipv4_alone(invite: &str) -> Self {
        let mut settings = settings();
        settings.interfaces[0].ipv6 = None;
        let destination = Destination::Phones(vec![Aor { tenant: "acme".to_owned(), user: "1002".to_owned() }]);
        let mut ladder = Self::begin_under(settings, invite, flow(10), destination, 8, Wanted::default());
        ladder.step(CallInput::Targets(vec![target(20)]));
        ladder
    }

    fn begin_under(
        settings: Settings,
        invite: &str,
        from: Flow,
        destination: Destination,
        ports: u16,
        record: Wanted,
    ) -> Self {
        let pair = |address: &'static str| {
            move |n: u16| {
                let at = |port| SocketAddr::new(address.parse().unwrap(), port);
                Pair { interface: 0, rtp: at(16_384 + 2 * n), rtcp: at(16_385 + 2 * n) }
            }
        };
        let mut pool = PortPool::new((0..ports).map(pair(MEDIA)).chain((0..ports).map(pair(MEDIA_V6))).collect());
        let mut random = Random::new(1);
        let mut out = Outbox::new();
        let start = Instant::from_millis(1_000_000);
        let mut cx = Context {
            now: Now { instant: start, unix: UnixTime::from_secs(1_700_000_000) },
            settings: &settings,
            shard: ShardId(0),
            handle: HANDLE,
            random: &mut random,
            ports: &mut pool,
        };
        let caller = CallerIdentity {
            tenant: "acme".to_owned(),
            domain: "acme.test".to_owned(),
            phone: "1001".to_owned(),
            number: "1001".to_owned(),
            name: "Alice".to_owned(),
        };
        let message = parse(invite);
        let aor = Aor { tenant: "acme".to_owned(), user: "1001".to_owned() };
        let bound = Some(Bound { aor, contact: "sip:1001@192.0.2.10".to_owned(), instance: "<urn:a>".to_owned() });
        let (dialled, symmetric) = ("1002".to_owned(), SymmetricMedia::default());
        let invite = Invite { message: &message, flow: from, caller, dialled, destination, record, symmetric, bound };
        let call = Call::new(invite, &mut cx, &mut out);
        let mut ladder = Self {
            call,
            settings,
            random,
            pool,
            now: start,
            sent: VecDeque::new(),
            events: Vec::new(),
            media: Vec::new(),
            marks: Vec::new(),
            owners: BTreeMap::new(),
            reports: VecDeque::new(),
            cseqs: BTreeMap::new(),
            located: Vec::new(),
            requests: BTreeSet::new(),
            name: String::new(),
        };
        ladder.apply(out);
        ladder
    }

    /// For targets that are told after this.
    pub(super) fn ring_at_most(&mut self, time: Duration) {
        self.settings.ring_max = time;
    }

    pub(super) fn step(&mut self, input: CallInput<'_>) {
        self.run(|call, cx, out| call.handle(input, cx, out));
        while let Some(report) = self.reports.pop_front() {
            self.run(|call, cx, out| call.handle(CallInput::Media(report), cx, out));
        }
    }

    pub(super) fn run(&mut self, step: impl FnOnce(&mut Call, &mut Context<'_>, &mut Outbox)) {
        let bytes = postcard::to_allocvec(&self.call).unwrap();
        let mut call: Call = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(call, self.call);
        let mut out = Outbox::new();
        let unix = UnixTime::from_micros(1_700_000_000_000_000 + self.now.nanos() / 1_000);
        let mut cx = Context {
            now: Now { instant: self.now, unix },
            settings: &self.settings,
            shard: ShardId(0),
            handle: HANDLE,
            random: &mut self.random,
            ports: &mut self.pool,
        };
        step(&mut call, &mut cx, &mut out);
        self.call = call;
        self.apply(out);
    }

    fn apply(&mut self, mut out: Outbox) {
        for output in out.drain().collect::<Vec<_>>() {
            match output {
                Output::Send { flow, bytes } | Output::Answer { flow, bytes, .. } => self.note(flow, bytes),
                Output::Event { call, leg, body, .. } => {
                    assert_eq!(call, Some(self.call.id()));
                    self.events.push((leg, body));
                }
                Output::Media(command) => {
                    self.media.push(command.clone());
                    match command {
                        MediaCommand::Open { pair, owner, .. } => assert!(self.owners.insert(pair, owner).is_none()),
                        MediaCommand::Close { pair } => {
                            let owner = self.owners.remove(&pair).unwrap();
                            let notice = Notice::Closed { report: Box::default() };
                            self.reports.push_back(MediaNotice { pair, owner, notice });
                        }
                        MediaCommand::Tape { pair, switch: TapeSwitch::Off } => {
                            let owner = self.owners[&pair];
                            let notice =
                                Notice::Taped { frames: 7, untaped: Untaped { direction: 2, ..Untaped::default() } };
                            self.reports.push_back(MediaNotice { pair, owner, notice });
                        }
                        _ => {}
                    }
                }
                Output::Mark { call, mark } => {
                    assert_eq!(call, self.call.id());
                    self.marks.push(mark);
                }
                Output::Locate { aors, .. } => self.located.extend(aors.into_iter().map(|aor| aor.user)),
                Output::Live(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn note(&mut self, flow: Flow, bytes: Vec<u8>) {
        let text = String::from_utf8(bytes).unwrap();
        let message = parse(&text);
        let repeats = text.starts_with("ACK") || text.starts_with("CANCEL") || !self.requests.insert(text.clone());
        if message.is_request() && !repeats {
            let cseq = message.cseq().unwrap();
            let from = message.from().unwrap().tag().unwrap();
            let to = message.to().unwrap().tag().unwrap_or_default();
            let key = (text_of(message.call_id()), format!("{} {}", text_of(from), text_of(to)));
            let last = self.cseqs.entry(key).or_default();
            assert!(cseq.number > *last, "{} CSeq went back: {text}", self.name);
            *last = cseq.number;
        }
        self.sent.push_back(Sent { flow, text });
    }

    /// `text` arrives from a phone.
    pub(super) fn receive(&mut self, host: u8, text: &str) {
        self.receive_from(flow(host), text);
    }

    pub(super) fn receive_from(&mut self, flow: Flow, text: &str) {
        let message = parse(text);
        match message.start_line() {
            StartLine::Request(_) => self.step(CallInput::Request { message: &message, flow }),
            StartLine::Response(_) => {
                let branch = message.top_via().unwrap().branch().unwrap();
                let leg = Locator::parse(branch).unwrap().leg;
                self.step(CallInput::Response { leg, message: &message });
            }
        }
    }

    /// The next message to a phone, which must begin so.
    #[track_caller]
    pub(super) fn expect(&mut self, host: u8, start: &str) -> Sent {
        let position = self.sent.iter().position(|sent| sent.flow.peer.ip() == flow(host).peer.ip());
        let Some(sent) = position.and_then(|at| self.sent.remove(at)) else {
            panic!("nothing sent to {host}, wanted {start}")
        };
        assert!(sent.text.starts_with(start), "wanted {start}, got\n{}", sent.text);
        sent
    }

    /// The next message over a flow, which must begin so.
    #[track_caller]
    pub(super) fn expect_over(&mut self, flow: Flow, start: &str) -> Sent {
        let position = self.sent.iter().position(|sent| sent.flow == flow);
        let Some(sent) = position.and_then(|at| self.sent.remove(at)) else {
            panic!("nothing sent over {flow}, wanted {start}")
        };
        assert!(sent.text.starts_with(start), "wanted {start}, got\n{}", sent.text);
        sent
    }

    #[track_caller]
    pub(super) fn expect_nothing(&self) {
        assert!(self.sent.is_empty(), "{:#?}", self.sent);
    }

    pub(super) fn take_sent(&mut self) -> Vec<Sent> {
        self.sent.drain(..).collect()
    }

    /// Lets time pass, all timers on the way included.
    pub(super) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut rounds = 0;
        while let Some(deadline) = self.call.next_deadline()
            && deadline <= end
        {
            rounds += 1;
            assert!(rounds < 10_000, "{} a deadline that does not move: {:#?}", self.name, self.call);
            self.now = self.now.max(deadline);
            self.run(|call, cx, out| call.handle_timeout(cx, out));
            while let Some(report) = self.reports.pop_front() {
                self.run(|call, cx, out| call.handle(CallInput::Media(report), cx, out));
            }
        }
        self.now = end;
    }

    /// The one cause of the one end.
    #[track_caller]
    pub(super) fn cause(&self) -> Cause {
        let mut causes = self.events.iter().filter_map(|(_, body)| match body {
            Body::CallEnded { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        let cause = causes.next().expect("the call has not ended");
        assert_eq!(causes.next(), None, "ended twice");
        cause
    }

    /// Runs out the call and checks that nothing is left.
    #[track_caller]
    pub(super) fn finish(&mut self) -> Cause {
        self.advance(Duration::from_secs(80));
        assert!(self.call.is_over(), "{} not over: {:#?}", self.name, self.call);
        assert_eq!(self.call.next_deadline(), None);
        assert_eq!(self.pool.counts.in_use, 0);
        self.cause()
    }

    pub(super) fn has_event(&self, wanted: impl Fn(&Body) -> bool) -> bool {
        self.events.iter().any(|(_, body)| wanted(body))
    }
}

pub(super) fn parse(text: &str) -> Message<'_> {
    match scan(text.as_bytes(), Transport::Udp) {
        Scan::Ok(message) => message,
        other => panic!("{other:?}\n{text}"),
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Sent {
    pub(super) fn header(&self, id: HeaderId) -> String {
        text_of(parse(&self.text).header(id).unwrap_or_default())
    }

    pub(super) fn has(&self, id: HeaderId) -> bool {
        parse(&self.text).has(id)
    }

    pub(super) fn body(&self) -> String {
        text_of(parse(&self.text).body())
    }

    pub(super) fn tag(&self) -> String {
        text_of(parse(&self.text).to().unwrap().tag().unwrap_or_default())
    }

    pub(super) fn cseq(&self) -> u32 {
        parse(&self.text).cseq().unwrap().number
    }

    /// The RTP port of the first m-line.
    pub(super) fn port(&self) -> u16 {
        let body = self.body();
        let line = body.lines().find(|line| line.starts_with("m=")).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// A response of the phone: `more` are whole header lines, and `body` a description.
    pub(super) fn response(&self, status: u16, tag: &str, more: &str, body: &str) -> String {
        let message = parse(&self.text);
        let mut text = format!("SIP/2.0 {status} X\r\n");
        for via in message.headers(HeaderId::Via) {
            text += &format!("Via: {}\r\n", text_of(via));
        }
        let to = text_of(message.header(HeaderId::To).unwrap());
        let tagged = message.to().unwrap().tag().is_some() || tag.is_empty();
        text += &format!("From: {}\r\n", self.header(HeaderId::From));
        text += &if tagged { format!("To: {to}\r\n") } else { format!("To: {to};tag={tag}\r\n") };
        text += &format!("Call-ID: {}\r\nCSeq: {}\r\n", self.header(HeaderId::CallId), self.header(HeaderId::CSeq));
        if !tag.is_empty() && (101..300).contains(&status) {
            text += &format!("Contact: <sip:{tag}@{}>\r\n", self.flow.peer);
        }
        with_body(text + more, body)
    }
}

fn with_body(head: String, body: &str) -> String {
    let kind = if body.starts_with("v=0") { "Content-Type: application/sdp\r\n" } else { "" };
    format!("{head}{kind}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Alice's INVITE.
pub(super) fn invite(more: &str, body: &str) -> String {
    with_body(
        format!(
            "INVITE sip:1002@acme.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKalice1;rport\r\n\
             Max-Forwards: 70\r\nFrom: \"A\" <sip:1001@acme.test>;tag=a1\r\nTo: <sip:1002@acme.test>\r\n\
             Call-ID: alice-call\r\nCSeq: 10 INVITE\r\nContact: <sip:1001@192.0.2.10:5060>\r\n\
             Allow: INVITE, ACK, BYE, CANCEL, UPDATE, PRACK\r\n{more}"
        ),
        body,
    )
}

pub(super) fn cancel(more: &str) -> String {
    format!(
        "CANCEL sip:1002@acme.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKalice1;rport\r\n\
         Max-Forwards: 70\r\nFrom: \"A\" <sip:1001@acme.test>;tag=a1\r\nTo: <sip:1002@acme.test>\r\n\
         Call-ID: alice-call\r\nCSeq: 10 CANCEL\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

/// One end of a dialog, as its phone sees it.
#[derive(Clone, Debug)]
pub(super) struct Phone {
    pub(super) host: u8,
    call_id: String,
    local: String,
    remote: String,
    target: String,
    pub(super) cseq: u32,
    requests: u32,
}

impl Phone {
    /// Alice, by a response to her INVITE.
    pub(super) fn alice(response: &Sent) -> Self {
        Self {
            host: 10,
            call_id: "alice-call".to_owned(),
            local: response.header(HeaderId::From),
            remote: response.header(HeaderId::To),
            target: contact(response),
            cseq: 10,
            requests: 0,
        }
    }

    /// A callee, by the INVITE it got and the tag it answers with.
    pub(super) fn callee(host: u8, invite: &Sent, tag: &str) -> Self {
        Self {
            host,
            call_id: invite.header(HeaderId::CallId),
            local: format!("{};tag={tag}", invite.header(HeaderId::To)),
            remote: invite.header(HeaderId::From),
            target: contact(invite),
            cseq: 100,
            requests: 0,
        }
    }

    pub(super) fn request(&mut self, method: &str, more: &str, body: &str) -> String {
        self.cseq += 1;
        self.with_cseq(method, self.cseq, more, body)
    }

    pub(super) fn ack(&mut self, cseq: u32, body: &str) -> String {
        self.with_cseq("ACK", cseq, "", body)
    }

    fn with_cseq(&mut self, method: &str, cseq: u32, more: &str, body: &str) -> String {
        self.requests += 1;
        let contact = match method {
            "INVITE" | "UPDATE" => format!("Contact: <sip:{}@192.0.2.{}>\r\n", self.host, self.host),
            _ => String::new(),
        };
        with_body(
            format!(
                "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.{}:5060;branch=z9hG4bK{}x{};rport\r\nMax-Forwards: 70\r\n\
                 From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n{contact}{more}",
                self.target, self.host, self.host, self.requests, self.local, self.remote, self.call_id
            ),
            body,
        )
    }

    /// CANCEL of the phone's own INVITE within the dialog.
    pub(super) fn cancel(invite: &str, more: &str) -> String {
        let message = parse(invite);
        let header = |id| text_of(message.header(id).unwrap());
        format!(
            "CANCEL sip:x SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} CANCEL\r\n\
             {more}Content-Length: 0\r\n\r\n",
            header(HeaderId::Via),
            header(HeaderId::From),
            header(HeaderId::To),
            header(HeaderId::CallId),
            message.cseq().unwrap().number,
        )
    }

    /// ACK of a failure of the phone's own INVITE.
    pub(super) fn ack_failure(invite: &str, response: &Sent) -> String {
        let message = parse(invite);
        let via = text_of(message.header(HeaderId::Via).unwrap());
        format!(
            "ACK sip:x SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} ACK\r\n\
             Content-Length: 0\r\n\r\n",
            response.header(HeaderId::From),
            response.header(HeaderId::To),
            response.header(HeaderId::CallId),
            response.cseq(),
        )
    }
}

fn contact(sent: &Sent) -> String {
    let value = sent.header(HeaderId::Contact);
    text_of(NameAddr::parse(value.as_bytes()).unwrap().uri)
}

/// Alice (10) and Bob (20) talk.
pub(super) struct Talk {
    pub(super) ladder: Ladder,
    pub(super) alice: Phone,
    pub(super) bob: Phone,
}

/// `caller` and `callee` are further header lines of the INVITE and of Bob's 200.
pub(super) fn talk(caller: &str, callee: &str) -> Talk {
    let mut ladder = Ladder::new(&invite(caller, &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(180, "b1", "", ""));
    let ringing = ladder.expect(10, "SIP/2.0 180");
    let mut alice = Phone::alice(&ringing);
    if ringing.has(HeaderId::RSeq) {
        let rack = format!("RAck: {} 10 INVITE\r\n", ringing.header(HeaderId::RSeq));
        ladder.receive(10, &alice.request("PRACK", &rack, ""));
        ladder.expect(10, "SIP/2.0 200");
    }
    ladder.receive(20, &offer.response(200, "b1", callee, &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &alice.ack(10, ""));
    ladder.expect_nothing();
    let bob = Phone::callee(20, &offer, "b1");
    Talk { ladder, alice, bob }
}
