"""Road Topology: lanes and crosswalks separated into instances by a SegFormer with two heads."""

__version__ = "0.1.0"
