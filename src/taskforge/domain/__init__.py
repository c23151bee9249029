"""What can be decided without asking anyone: values, rules, arithmetic. No I/O, no clock, no logging."""
