"""The product's memory: all SQL, and the only modules that speak to the driver."""
