//! Prose for sample messages: an invented vocabulary drawn with the frequencies of real text.
//!
//! Word `n` comes up in proportion to `1 / (n + 2.7)^1.05` (Zipf's law), common English words first. That is
//! what makes the text compress about as well as real mail does.

use std::collections::HashSet;

use crate::random::Random;

/// Number of different words.
const VOCABULARY_COUNT: usize = 24_000;

/// Words per line of prose.
const LINE_WORDS: usize = 12;

const COMMON: &str = "the of and to a in is it you that he was for on are with as I his they be at one have this \
    from or had by hot but some what there we can out other were all your when up use word how said an each she \
    which do their time if will way about many then them would write like so these her long make thing see him \
    two has look more day could go come did my sound no most number who over know water than call first people \
    may down side been now find any new work part take get place made live where after back little only round \
    man year came show every good me give our under name very through just form much great think say help low \
    line before turn cause same mean differ move right boy old too does tell sentence set three want air well \
    also play small end put home read hand port large spell add even land here must big high such follow act why \
    ask men change went light kind off need house picture try us again animal point mother world near build self \
    earth father head stand own page should country found answer school grow study still learn plant cover food \
    sun four thought let keep eye never last door between city tree cross since hard start might story saw far \
    sea draw left late run while press close night real life few stop open seem together next white children \
    begin got walk example ease paper often always music those both mark book letter until mile river car feet \
    care second group carry took rain eat room friend began idea fish mountain north once base hear horse cut \
    sure watch color face wood main thanks regards please meeting attached invoice schedule project team update \
    report order shipping account password reminder tomorrow today week month";

const SYLLABLES: &str = "ba be bi bo bra ca ce cho cla da de di dra e fa fle fo ga ge gra ha he i ja ka ki la le \
    li lo ma me mi mo na ne ni no o pa pe pi pla pro ra re ri ro sa se shi sta su ta te ti to tra u va ve vi wa \
    we xa ya ze";

const ENDINGS: [&str; 8] = ["", "", "n", "s", "r", "d", "ing", "er"];

/// A vocabulary and how often each word comes up.
#[derive(Debug)]
pub(crate) struct Words {
    words: Vec<String>,
    cumulative_weights: Vec<f64>,
}

impl Words {
    /// Makes the vocabulary that belongs to a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let words = invent_words(&mut Random::new(seed, "vocabulary"));
        let mut total = 0.0;
        let cumulative_weights = (0..words.len())
            .map(|rank| {
                total += (rank as f64 + 2.7).powf(-1.05);
                total
            })
            .collect();
        Self { words, cumulative_weights }
    }

    /// Returns sentences of `count` words in all (at least one), in lines and paragraphs.
    pub(crate) fn prose(&self, random: &mut Random, count: usize) -> String {
        let count = count.max(1);
        let mut text = String::with_capacity(count * 6);
        let mut sentence_left = 0;
        for place in 0..count {
            separate(&mut text, place);
            let starts_sentence = sentence_left == 0;
            if starts_sentence {
                sentence_left = random.within(5..19);
            }
            push_word(&mut text, self.word(random), starts_sentence);
            sentence_left -= 1;
            if sentence_left == 0 || place + 1 == count {
                text.push('.');
            }
        }
        text
    }

    /// Returns a few words as a title has them.
    pub(crate) fn title(&self, random: &mut Random, count: usize) -> String {
        let mut text = String::new();
        for place in 0..count {
            if place > 0 {
                text.push(' ');
            }
            push_word(&mut text, self.word(random), place == 0);
        }
        text
    }

    fn word(&self, random: &mut Random) -> &str {
        let total = self.cumulative_weights.last().copied().unwrap_or(0.0);
        let drawn = random.fraction() * total;
        let rank = self.cumulative_weights.partition_point(|&weight| weight <= drawn);
        &self.words[rank.min(self.words.len() - 1)]
    }
}

fn invent_words(random: &mut Random) -> Vec<String> {
    let syllables: Vec<&str> = SYLLABLES.split_whitespace().collect();
    let mut words: Vec<String> = COMMON.split_whitespace().map(str::to_owned).collect();
    let mut known: HashSet<String> = words.iter().cloned().collect();
    while words.len() < VOCABULARY_COUNT {
        let length = *random.pick(&[2, 3, 3, 4]);
        let mut word: String = (0..length).map(|_| *random.pick(&syllables)).collect();
        word.push_str(random.pick::<&str>(&ENDINGS));
        if known.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

/// Appends what stands before the word at this place: nothing, a space, a line or a paragraph break.
fn separate(text: &mut String, place: usize) {
    if place == 0 {
        return;
    }
    let line_number = place / LINE_WORDS;
    text.push_str(match (place % LINE_WORDS, line_number % 7) {
        (0, 6) => "\n\n",
        (0, _) => "\n",
        _ => " ",
    });
}

fn push_word(text: &mut String, word: &str, capital: bool) {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) if capital => {
            text.push(first.to_ascii_uppercase());
            text.push_str(letters.as_str());
        }
        _ => text.push_str(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_has_the_words_asked_for() {
        let words = Words::new(1);
        let mut random = Random::new(1, "prose");
        for count in [1, 5, 12, 13, 500] {
            let text = words.prose(&mut random, count);
            assert_eq!(text.split_whitespace().count(), count);
            assert!(text.ends_with('.') && text.starts_with(|first: char| first.is_uppercase()));
        }
        assert_eq!(words.title(&mut random, 4).split(' ').count(), 4);
    }

    #[test]
    fn prose_compresses_like_mail() {
        let text = Words::new(1).prose(&mut Random::new(1, "prose"), 100_000);
        let compressed = zstd::bulk::compress(text.as_bytes(), 3).unwrap();
        let ratio = compressed.len() as f64 / text.len() as f64;
        assert!((0.3..0.5).contains(&ratio), "ratio {ratio}");
    }
}
