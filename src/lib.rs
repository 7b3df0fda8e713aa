//! packvault
