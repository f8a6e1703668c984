#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gluetun_gateway::fuzz::users_file(data));
