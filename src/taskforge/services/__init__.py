"""One function per verb. REST, the SDK, the worker and the command line call these and nothing below them."""
