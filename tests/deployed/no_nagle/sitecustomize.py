# The emulator's runtime API answers each function's call 40 ms late without
# this: its small writes wait for the other side's acknowledgement.
import socketserver

socketserver.StreamRequestHandler.disable_nagle_algorithm = True
