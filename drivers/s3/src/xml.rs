//! The XML of answers, read into a small tree with bounds on everything.
//!
//! Only the names the protocol knows are looked at. Document types are refused, so no entity can grow; of
//! references only the five of XML itself and those to characters are known.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// The deepest nesting.
const DEPTH_MAX: usize = 16;

/// The most elements of one answer: a page of a thousand objects has about eight thousand.
const ELEMENTS_MAX: usize = 100_000;

/// One element: its name without a namespace, the text directly inside, and the elements inside.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub name: String,
    pub text: String,
    pub inside: Vec<Element>,
}

impl Element {
    /// Returns the text of the first element of the name inside.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.inside.iter().find(|element| element.name == name).map(|element| element.text.as_str())
    }

    /// Returns every element of the name inside.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.inside.iter().filter(move |element| element.name == name)
    }
}

/// Reads the document and returns its root; the error says what is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Element, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no UTF-8")?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}').trim_start());
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Element> = vec![Element::default()];
    let mut count = 0;
    loop {
        match reader.read_event().map_err(|_| "it is no well-formed XML")? {
            Event::Start(start) => {
                count += 1;
                if count > ELEMENTS_MAX || open.len() > DEPTH_MAX {
                    return Err("it has too many elements");
                }
                let name = start.local_name();
                let name = String::from_utf8_lossy(name.as_ref().as_ref()).into_owned();
                open.push(Element { name, ..Element::default() });
            }
            Event::End(_) => {
                let closed = open.pop().ok_or("it is no well-formed XML")?;
                open.last_mut().ok_or("it is no well-formed XML")?.inside.push(closed);
            }
            Event::Text(text) => append(&mut open, &text.xml10_content()),
            Event::CData(text) => append(&mut open, &text.xml10_content()),
            Event::GeneralRef(reference) => append(&mut open, resolve(&reference)?.encode_utf8(&mut [0; 4])),
            Event::DocType(_) => return Err("it declares a document type"),
            Event::Eof => break,
            _ => {}
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(mut document), true) if document.inside.len() == 1 => {
            document.inside.pop().ok_or("it is empty")
        }
        _ => Err("it ends too early"),
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, &'static str> {
    if let Some(character) = reference.resolve_char_ref().map_err(|_| "it refers to no character")? {
        return Ok(character);
    }
    match reference.xml10_content().as_ref() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err("it refers to an entity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_texts_and_references_are_read() {
        let root = parse(
            b"<?xml version=\"1.0\"?><R xmlns=\"x\"><C><K>a&amp;b&#x20;<![CDATA[<c>]]></K><S/></C>\n<C/></R>\n",
        );
        let root = root.unwrap();
        assert_eq!(root.name, "R");
        assert_eq!(root.all("C").count(), 2);
        let first = root.all("C").next().unwrap();
        assert_eq!((first.text_of("K"), first.text_of("S")), (Some("a&b <c>"), Some("")));
    }

    #[test]
    fn bombs_and_rubbish_are_refused() {
        let bomb = b"<!DOCTYPE a [<!ENTITY x \"xx\"><!ENTITY y \"&x;&x;\">]><a>&y;</a>";
        assert_eq!(parse(bomb), Err("it declares a document type"));
        assert!(parse(b"<a>&y;</a>").is_err());
        assert!(parse("<a>".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse("<a/>".repeat(1_000_000).as_bytes()).is_err());
        for rubbish in [&b""[..], b"{}", b"<a>", b"</a>", b"<a></b>", b"<a/><b/>", b"\xff", b"<a>&#x0;</a>"] {
            assert!(parse(rubbish).is_err(), "{:?}", String::from_utf8_lossy(rubbish));
        }
    }
}
