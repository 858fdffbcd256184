// S = (Y ? B : 0) + (X ? A : 0), or the difference, on ECP5: the gates are in the LUTs of the carry cells.
module GATED_ADDER #(parameter WIDTH = 8, parameter SUBTRACT = 0) (
    input [WIDTH-1:0] A, B,
    input X, Y,
    output [WIDTH-1:0] S
);
    localparam CELLS = (WIDTH + 1) / 2;
    // A & X xor C & D, and its complement in the first pair, which with a carry in makes a difference.
    localparam [15:0] INIT = SUBTRACT ? 16'h8777 : 16'h7888;
    wire [2*CELLS-1:0] a = {2*CELLS{1'b0}} | A, b = {2*CELLS{1'b0}} | B, s;
    wire [CELLS:0] carry;
    assign carry[0] = SUBTRACT ? 1'b1 : 1'b0;
    assign S = s[WIDTH-1:0];
    genvar n;
    generate
        for (n = 0; n < CELLS; n = n + 1) begin : cells
            CCU2C #(.INIT0(INIT), .INIT1(INIT), .INJECT1_0("NO"), .INJECT1_1("NO")) ccu2c (
                .CIN(carry[n]), .COUT(carry[n+1]),
                .A0(a[2*n]), .B0(X), .C0(b[2*n]), .D0(Y), .S0(s[2*n]),
                .A1(a[2*n+1]), .B1(X), .C1(b[2*n+1]), .D1(Y), .S1(s[2*n+1])
            );
        end
    endgenerate
endmodule
