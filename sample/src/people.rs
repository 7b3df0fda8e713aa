//! The people of a sample: invented names and addresses under reserved domains.

use std::collections::HashSet;

use crate::random::Random;

const FIRST_NAMES: [&str; 30] = [
    "Ada", "Bela", "Chidi", "Dana", "Elif", "Farid", "Gita", "Hugo", "Ines", "Jonas", "Kaya", "Liam", "Mira",
    "Noor", "Otto", "Priya", "Quinn", "Rosa", "Sami", "Tomas", "Uma", "Viktor", "Wanda", "Ximena", "Yusuf",
    "Zoe", "Anders", "Bruna", "Ciro", "Desta",
];

const LAST_NAMES: [&str; 26] = [
    "Abara",
    "Brandt",
    "Costa",
    "Dhillon",
    "Eriksen",
    "Fontaine",
    "Garba",
    "Haddad",
    "Ivanov",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Nakamura",
    "Okafor",
    "Petrov",
    "Quiroga",
    "Rossi",
    "Silva",
    "Tanaka",
    "Ueda",
    "Varga",
    "Weiss",
    "Xu",
    "Yilmaz",
    "Zhang",
];

/// The domains addresses are made in.
pub(crate) const DOMAINS: [&str; 10] = [
    "example.com",
    "example.net",
    "example.org",
    "mail.example.com",
    "corp.example",
    "lists.example",
    "news.example",
    "shop.example",
    "school.example",
    "travel.example",
];

/// Somebody who writes or receives messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// The address, unique in an archive.
    pub(crate) email: String,
    /// The name shown.
    pub(crate) name: String,
}

/// Invents that many people with different addresses.
pub(crate) fn invent(random: &mut Random, count: usize) -> Vec<Person> {
    let mut known = HashSet::new();
    let mut people = Vec::with_capacity(count);
    while people.len() < count {
        let person = invent_one(random);
        if known.insert(person.email.clone()) {
            people.push(person);
        }
    }
    people
}

fn invent_one(random: &mut Random) -> Person {
    let (first, last) = (*random.pick(&FIRST_NAMES), *random.pick(&LAST_NAMES));
    let number = random.within(1..9999);
    let domain = random.pick(&DOMAINS);
    let email = format!("{}.{}{number}@{domain}", first.to_lowercase(), last.to_lowercase());
    Person { email, name: format!("{first} {last}") }
}
