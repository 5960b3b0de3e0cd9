//! The phones of a population from a CSV file (RFC 4180): a header that names the columns, a line for each phone.

use std::collections::BTreeSet;
use std::path::Path;

use crate::process::phlem::scenario::Fault;
use crate::process::phlem::scenario::USERS_MAX;

const FILE_BYTES_MAX: u64 = 256 << 20;
const FIELD_BYTES_MAX: usize = 255;
const COLUMNS: [&str; 6] = ["user", "password", "auth_user", "domain", "extension", "number"];

/// One phone; what is empty is as the population says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub user: Box<str>,
    pub password: Box<str>,
    pub auth_user: Box<str>,
    pub domain: Box<str>,
    /// What phones of the same population dial for it, and what others do.
    pub extension: Box<str>,
    pub number: Box<str>,
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accounts {
    /// As it is named in the scenario.
    pub(super) file: String,
    /// As it was read: other machines of a fleet do not have the file.
    pub(super) text: String,
    pub(super) list: Vec<Account>,
}

impl Accounts {
    /// A path that is not absolute is taken from `folder`, where the scenario lies.
    pub(super) fn read(file: &str, folder: &Path) -> Result<Self, Fault> {
        let path = folder.join(file);
        let shown = path.display().to_string();
        let fault = |reason: String| Fault { file: shown.clone(), reason, ..Fault::default() };
        let length = std::fs::metadata(&path).map_err(|error| fault(error.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(fault(format!("is larger than {} MB", FILE_BYTES_MAX >> 20)));
        }
        let bytes = std::fs::read(&path).map_err(|error| fault(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            Fault { line: Some(line), ..fault("is no UTF-8".to_owned()) }
        })?;
        Self::parse(file, &shown, text)
    }

    /// `shown`: how faults name the file.
    pub(super) fn parse(file: &str, shown: &str, text: String) -> Result<Self, Fault> {
        let fault = |line: usize, column: usize, key: &str, reason: String| Fault {
            file: shown.to_owned(),
            line: Some(line),
            column: Some(column),
            key: key.to_owned(),
            reason,
        };
        // A spreadsheet's byte order mark.
        let body = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
        let mut lines = (1..).zip(body.lines()).filter(|(_, line)| !line.trim().is_empty());
        let Some((line, header)) = lines.next() else {
            return Err(fault(1, 1, "", format!("is empty: the first line names the columns: {}", COLUMNS.join(","))));
        };
        let header = header_of(header).map_err(|(column, reason)| fault(line, column, "", reason))?;
        let mut seen = BTreeSet::new();
        let mut list: Vec<Account> = Vec::new();
        for (line, content) in lines {
            let fields = fields(content).map_err(|(column, reason)| fault(line, column, "", reason.to_owned()))?;
            if fields.len() != header.len() {
                let reason = format!("has {} fields, the header {}", fields.len(), header.len());
                let column = fields.get(header.len()).or_else(|| fields.last()).map_or(1, |(column, _)| *column);
                return Err(fault(line, column, "", reason));
            }
            let mut account = Account::default();
            for (name, (column, value)) in header.iter().zip(fields) {
                check(name, &value).map_err(|reason| fault(line, column, name, reason))?;
                *account.field(name) = value.into_boxed_str();
            }
            if list.len() >= USERS_MAX as usize {
                return Err(fault(line, 1, "", format!("is more than {USERS_MAX} phones")));
            }
            if !seen.insert((account.user.clone(), account.domain.clone())) {
                return Err(fault(line, 1, "user", format!("\"{}\" is there twice", account.user)));
            }
            list.push(account);
        }
        if list.is_empty() {
            return Err(fault(1, 1, "", "has a header and no phones".to_owned()));
        }
        Ok(Self { file: file.to_owned(), text, list })
    }
}

impl Account {
    fn field(&mut self, name: &str) -> &mut Box<str> {
        match name {
            "password" => &mut self.password,
            "auth_user" => &mut self.auth_user,
            "domain" => &mut self.domain,
            "extension" => &mut self.extension,
            "number" => &mut self.number,
            _ => &mut self.user,
        }
    }

    /// Another phone dials this.
    pub fn dialled(&self, is_colleague: bool) -> &str {
        let order = if is_colleague { [&self.extension, &self.number] } else { [&self.number, &self.extension] };
        order.into_iter().find(|dialled| !dialled.is_empty()).unwrap_or(&self.user)
    }
}

fn header_of(line: &str) -> Result<Vec<&'static str>, (usize, String)> {
    let mut header: Vec<&'static str> = Vec::new();
    for (column, name) in fields(line).map_err(|(column, reason)| (column, reason.to_owned()))? {
        let known = COLUMNS.into_iter().find(|known| known.eq_ignore_ascii_case(name.trim()));
        let Some(known) = known else {
            return Err((column, format!("there is no column \"{name}\"; there are: {}", COLUMNS.join(", "))));
        };
        if header.contains(&known) {
            return Err((column, format!("the column \"{known}\" is there twice")));
        }
        header.push(known);
    }
    if header.contains(&"user") { Ok(header) } else { Err((1, "the column \"user\" is missing".to_owned())) }
}

/// Where each field begins, from 1, and what it holds.
fn fields(line: &str) -> Result<Vec<(usize, String)>, (usize, &'static str)> {
    let mut fields = Vec::new();
    let mut letters = (1..).zip(line.chars()).peekable();
    loop {
        let start = letters.peek().map_or_else(|| line.chars().count() + 1, |(column, _)| *column);
        let mut value = String::new();
        if letters.next_if(|(_, letter)| *letter == '"').is_some() {
            loop {
                match letters.next() {
                    None => return Err((start, "the quotes of this field are not closed in its line")),
                    Some((_, '"')) if letters.next_if(|(_, letter)| *letter == '"').is_none() => break,
                    Some((_, letter)) => value.push(letter),
                }
            }
            if let Some((column, _)) = letters.peek().filter(|(_, letter)| *letter != ',') {
                return Err((*column, "only a comma may follow closing quotes"));
            }
        } else {
            while let Some((_, letter)) = letters.next_if(|(_, letter)| *letter != ',') {
                value.push(letter);
            }
        }
        fields.push((start, value));
        if letters.next().is_none() {
            return Ok(fields);
        }
    }
}

fn check(name: &str, value: &str) -> Result<(), String> {
    if value.len() > FIELD_BYTES_MAX {
        return Err(format!("is longer than {FIELD_BYTES_MAX} bytes"));
    }
    let marks: &[u8] = match name {
        "user" | "extension" | "number" => b"_.+~*-!'()&=$/%",
        "domain" => b".-:[]",
        _ => {
            let bad = value.chars().find(|letter| letter.is_control());
            return bad.map_or(Ok(()), |letter| Err(format!("holds {letter:?}")));
        }
    };
    if name == "user" && value.is_empty() {
        return Err("is empty".to_owned());
    }
    let is_good =
        |letter: &char| letter.is_ascii_alphanumeric() || u8::try_from(*letter).is_ok_and(|mark| marks.contains(&mark));
    let bad = value.chars().find(|letter| !is_good(letter));
    bad.map_or(Ok(()), |letter| Err(format!("\"{value}\" holds {letter:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Account>, String> {
        Accounts::parse("p.csv", "p.csv", text.to_owned()).map(|found| found.list).map_err(|fault| fault.to_string())
    }

    #[test]
    fn columns_in_any_order_quoted_or_not() {
        let text = "\u{FEFF}password,User,extension,number\r\n\"a,\"\"b\"\" c\",anna,21,+4930123\r\n\r\n,bert,,\r\n";
        let found = parse(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((&*found[0].user, &*found[0].password), ("anna", "a,\"b\" c"));
        assert_eq!([found[0].dialled(true), found[0].dialled(false)], ["21", "+4930123"]);
        assert_eq!((&*found[1].password, found[1].dialled(true)), ("", "bert"));
    }

    #[test]
    fn faults_have_line_and_column() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err(), expected, "{text:?}");
        check(
            "",
            "p.csv:1:1: is empty: the first line names the columns: user,password,auth_user,domain,extension,number",
        );
        check("user\n", "p.csv:1:1: has a header and no phones");
        check("password\nx\n", "p.csv:1:1: the column \"user\" is missing");
        check(
            "user,pasword\n",
            "p.csv:1:6: there is no column \"pasword\"; there are: user, password, auth_user, domain, extension, number",
        );
        check("user,password,user\n", "p.csv:1:15: the column \"user\" is there twice");
        check("user,password\na,b\nc\n", "p.csv:3:1: has 1 fields, the header 2");
        check("user,password\na,b,c\n", "p.csv:2:5: has 3 fields, the header 2");
        check("user,password\n\na,\"b\n", "p.csv:3:3: the quotes of this field are not closed in its line");
        check("user,password\na,\"b\"c\n", "p.csv:2:6: only a comma may follow closing quotes");
        check("password,user\nx,a b\n", "p.csv:2:3: user: \"a b\" holds ' '");
        check("password,user\nx,\n", "p.csv:2:3: user: is empty");
        check("user,domain\na,x\nb,x\na,x\n", "p.csv:4:1: user: \"a\" is there twice");
        check("user,password\na,\"\u{7}\"\n", "p.csv:2:3: password: holds '\\u{7}'");
        assert!(parse(&format!("user\n{}\n", "u".repeat(256))).unwrap_err().contains("p.csv:2:1: user: is longer"));
        assert!(parse("user,domain\na,x\na,y\n").is_ok());
    }
}
