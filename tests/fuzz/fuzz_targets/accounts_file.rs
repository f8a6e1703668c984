#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gluetun_gateway::fuzz::accounts_file(data));
