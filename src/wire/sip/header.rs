//! Names of header fields: one id per name that the node knows, with compact forms, found in one hash and one compare.
//!
//! A name that is not in the table is `HeaderId::Other`; its bytes stay in the message and are carried unchanged.
//! The hash table is made by the compiler, which refuses a table with a collision.

/// What a header field may do, beside its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// At most one line, one value: a second one makes the message ambiguous.
    Single,
    /// Lines may repeat, and a line may be a comma-separated list.
    List,
    /// Lines may repeat, but a comma does not separate values (RFC 3261 §7.3.1 names these).
    Lines,
}

macro_rules! headers {
    ($($variant:ident $name:literal $shape:ident $(| $compact:literal)?,)*) => {
        /// The header fields known by name; everything else is `Other`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum HeaderId {
            /// A name that is not in this table.
            Other,
            $(#[doc = $name] $variant,)*
        }

        impl HeaderId {
            /// Every known header, in the order of the enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name as it is written; empty for `Other`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { Self::Other => "", $(Self::$variant => $name,)* }
            }

            /// The one-letter form, where there is one.
            #[must_use]
            pub const fn compact(self) -> Option<u8> {
                match self { $($(Self::$variant => Some($compact),)?)* _ => None }
            }

            const fn shape(self) -> Shape {
                match self { Self::Other => Shape::List, $(Self::$variant => Shape::$shape,)* }
            }
        }
    };
}

headers! {
    Accept "Accept" List,
    AcceptContact "Accept-Contact" List | b'a',
    AcceptEncoding "Accept-Encoding" List,
    AcceptLanguage "Accept-Language" List,
    AlertInfo "Alert-Info" List,
    Allow "Allow" List,
    AllowEvents "Allow-Events" List | b'u',
    AuthenticationInfo "Authentication-Info" Lines,
    Authorization "Authorization" Lines,
    CallId "Call-ID" Single | b'i',
    CallInfo "Call-Info" List,
    Contact "Contact" List | b'm',
    ContentDisposition "Content-Disposition" Single,
    ContentEncoding "Content-Encoding" List | b'e',
    ContentLanguage "Content-Language" List,
    ContentLength "Content-Length" Single | b'l',
    ContentType "Content-Type" Single | b'c',
    CSeq "CSeq" Single,
    Date "Date" Single,
    Diversion "Diversion" List,
    ErrorInfo "Error-Info" List,
    Event "Event" Single | b'o',
    Expires "Expires" Single,
    FlowTimer "Flow-Timer" Single,
    From "From" Single | b'f',
    Geolocation "Geolocation" List,
    GeolocationError "Geolocation-Error" Single,
    GeolocationRouting "Geolocation-Routing" Single,
    HistoryInfo "History-Info" List,
    Identity "Identity" List | b'y',
    InReplyTo "In-Reply-To" List,
    InfoPackage "Info-Package" Single,
    Join "Join" Single,
    MaxForwards "Max-Forwards" Single,
    MimeVersion "MIME-Version" Single,
    MinExpires "Min-Expires" Single,
    MinSe "Min-SE" Single,
    Organization "Organization" Single,
    PAccessNetworkInfo "P-Access-Network-Info" List,
    PAssertedIdentity "P-Asserted-Identity" List,
    PAssociatedUri "P-Associated-URI" List,
    PCalledPartyId "P-Called-Party-ID" Single,
    PEarlyMedia "P-Early-Media" List,
    PPreferredIdentity "P-Preferred-Identity" List,
    Path "Path" List,
    Priority "Priority" Single,
    Privacy "Privacy" Lines,
    ProxyAuthenticate "Proxy-Authenticate" Lines,
    ProxyAuthorization "Proxy-Authorization" Lines,
    ProxyRequire "Proxy-Require" List,
    RAck "RAck" Single,
    RSeq "RSeq" Single,
    Reason "Reason" List,
    RecordRoute "Record-Route" List,
    RecvInfo "Recv-Info" List,
    ReferSub "Refer-Sub" Single,
    ReferTo "Refer-To" Single | b'r',
    ReferredBy "Referred-By" Single | b'b',
    RejectContact "Reject-Contact" List | b'j',
    RemotePartyId "Remote-Party-ID" List,
    Replaces "Replaces" Single,
    ReplyTo "Reply-To" Single,
    RequestDisposition "Request-Disposition" List | b'd',
    Require "Require" List,
    RetryAfter "Retry-After" Single,
    Route "Route" List,
    Server "Server" Single,
    ServiceRoute "Service-Route" List,
    SessionExpires "Session-Expires" Single | b'x',
    SipEtag "SIP-ETag" Single,
    SipIfMatch "SIP-If-Match" Single,
    Subject "Subject" Single | b's',
    SubscriptionState "Subscription-State" Single,
    Supported "Supported" List | b'k',
    TargetDialog "Target-Dialog" Single,
    Timestamp "Timestamp" Single,
    To "To" Single | b't',
    Unsupported "Unsupported" List,
    UserAgent "User-Agent" Single,
    UserToUser "User-to-User" List,
    Via "Via" List | b'v',
    Warning "Warning" List,
    WwwAuthenticate "WWW-Authenticate" Lines,
}

impl HeaderId {
    /// The id of a name in any case, long or compact.
    #[must_use]
    pub fn parse(name: &[u8]) -> Self {
        let id = match name {
            [] => return Self::Other,
            [letter] => return COMPACT.get(usize::from(letter.to_ascii_lowercase())).copied().unwrap_or(Self::Other),
            _ => TABLE.get(slot(name)).copied().unwrap_or(Self::Other),
        };
        let known = id.name().as_bytes();
        if known == name || known.eq_ignore_ascii_case(name) { id } else { Self::Other }
    }

    /// At most one line with one value is allowed in a message.
    #[must_use]
    pub const fn is_single(self) -> bool {
        matches!(self.shape(), Shape::Single)
    }

    /// It says something about the sender or its message that changes nothing: which of two counts is no matter.
    #[must_use]
    pub const fn is_remark(self) -> bool {
        matches!(self, Self::UserAgent | Self::Server | Self::Organization | Self::Timestamp | Self::MimeVersion)
    }

    /// A comma separates values of this header.
    #[must_use]
    pub const fn is_list(self) -> bool {
        matches!(self.shape(), Shape::List)
    }

    /// One bit per header, for sets.
    pub(crate) const fn bit(self) -> u128 {
        1u128.wrapping_shl(self as u32)
    }
}

const SLOTS: usize = 1024;
const MULTIPLIER: u32 = 0x2F97_8D87;

/// Mixes length, the first two, the middle and the last letter, all in lower case.
const fn slot(name: &[u8]) -> usize {
    let length = name.len();
    let letters = [letter(name, 0), letter(name, 1), letter(name, length / 2), letter(name, length.wrapping_sub(1))];
    let mixed = u32::from_le_bytes(letters)
        ^ (length as u32).wrapping_mul(0x0101_6B4F)
        ^ (letter(name, length.wrapping_sub(3)) as u32).wrapping_mul(0x0003_1D51);
    (mixed.wrapping_mul(MULTIPLIER) >> 22) as usize
}

const fn letter(name: &[u8], at: usize) -> u8 {
    match name.split_at_checked(at) {
        Some((_, [letter, ..])) => *letter | 0x20,
        _ => 0,
    }
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler only; a fault stops the build"
)]
const fn hash_table() -> [HeaderId; SLOTS] {
    let mut table = [HeaderId::Other; SLOTS];
    let mut at = 0;
    while at < HeaderId::ALL.len() {
        let id = HeaderId::ALL[at];
        let slot = slot(id.name().as_bytes());
        assert!(matches!(table[slot], HeaderId::Other), "two header names share a slot: try other odd MULTIPLIERs");
        table[slot] = id;
        at += 1;
    }
    table
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler only; a fault stops the build"
)]
const fn compact_table() -> [HeaderId; 256] {
    let mut table = [HeaderId::Other; 256];
    let mut at = 0;
    while at < HeaderId::ALL.len() {
        if let Some(letter) = HeaderId::ALL[at].compact() {
            table[letter as usize] = HeaderId::ALL[at];
        }
        at += 1;
    }
    table
}

static TABLE: [HeaderId; SLOTS] = hash_table();
static COMPACT: [HeaderId; 256] = compact_table();

const _: () = assert!(HeaderId::ALL.len() < 127, "a set of headers is a u128");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_compact() {
        for id in HeaderId::ALL {
            assert_eq!(HeaderId::parse(id.name().as_bytes()), *id);
            assert_eq!(HeaderId::parse(id.name().to_uppercase().as_bytes()), *id);
            assert_eq!(HeaderId::parse(id.name().to_lowercase().as_bytes()), *id);
            if let Some(letter) = id.compact() {
                assert_eq!(HeaderId::parse(&[letter]), *id);
                assert_eq!(HeaderId::parse(&[letter.to_ascii_uppercase()]), *id);
            }
        }
    }

    #[test]
    fn near_misses_are_other() {
        for name in ["", "z", "Vi", "Viaa", "Cal-ID", "Call_ID", "Content-Lengt", "X-Custom", "Max-Forwarts"] {
            assert_eq!(HeaderId::parse(name.as_bytes()), HeaderId::Other, "{name}");
        }
    }
}
