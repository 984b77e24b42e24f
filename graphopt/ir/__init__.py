"""The intermediate representation: typed values in SSA form, regions, and the one gate that changes them."""
