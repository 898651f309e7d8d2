"""The run config: its schema, how it is read, and how a fault in it is explained."""
