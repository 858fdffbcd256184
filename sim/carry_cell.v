// Two bits of a carry chain: S is the LUT of its four inputs, exclusive or with the carry; the LUT of A and B (C and D
// at 0) is carried out where the first LUT is 0, the carry passes where it is 1. Injection of a carry is not modelled.
module CCU2C #(
    parameter [15:0] INIT0 = 16'h0000,
    parameter [15:0] INIT1 = 16'h0000,
    parameter INJECT1_0 = "NO",
    parameter INJECT1_1 = "NO"
) (
    input CIN, A0, B0, C0, D0, A1, B1, C1, D1,
    output S0, S1, COUT
);
    wire propagate0 = INIT0[{D0, C0, B0, A0}];
    wire propagate1 = INIT1[{D1, C1, B1, A1}];
    wire carry = propagate0 ? CIN : INIT0[{2'b00, B0, A0}];
    assign S0 = propagate0 ^ CIN;
    assign S1 = propagate1 ^ carry;
    assign COUT = propagate1 ? carry : INIT1[{2'b00, B1, A1}];
endmodule
